"""The conditions of a sampling: encoded once, and joined once for each list of guidance passes."""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.conditioning import ConditionEncoder, Conditions, EncodedConditions
from medldm.diffusion.guidance import Passes, drop_masks


class SamplingConditions:
    """Keep what the denoiser is told in all steps of a sampling.

    Args:
        encoder: of the model.
        conditions: of the B samples, on their device; None for the null of every condition.

    Raises:
        ValueError: if the model does not know a condition, or a value is outside its range.
    """

    def __init__(self, encoder: ConditionEncoder, conditions: Conditions | None) -> None:
        if conditions is not None:
            encoder.check(conditions)
        self._encoder = encoder
        self._encoded = encoder.encode_values(conditions)
        self._absent = {} if conditions is None else conditions.absent
        self._joined: dict[tuple[Passes, torch.Size], EncodedConditions] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions that are given."""
        return tuple(self._encoded)

    def in_passes(self, passes: Passes, x: Tensor) -> EncodedConditions:
        """Return what the rows x (n, C, x, y, z) of the passes are told; the same object in every step."""
        key, n_passes = (passes, x.shape), len(passes)
        if key in self._joined:
            return self._joined[key]
        encoded = {name: told.repeat(n_passes) for name, told in self._encoded.items()}
        drop = drop_masks(passes, self.names, batch_size=len(x) // n_passes, device=x.device)
        for name in drop.keys() & self._absent.keys():
            drop[name] = drop[name] | self._absent[name].repeat(n_passes)
        told = self._encoder.assemble(encoded, drop, batch_size=len(x), latent_size=x.shape[2:])
        self._joined[key] = told.for_many_steps()
        return self._joined[key]
