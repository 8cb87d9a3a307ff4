"""All conditions of a model together: validation, dropout and encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medldm.conditioning.conditioners import (
    ClassConditioner,
    Conditioner,
    LabelMapConditioner,
    TextConditioner,
)
from medldm.conditioning.conditions import Conditions
from medldm.conditioning.config import ConditioningConfig


@dataclass(frozen=True)
class EncodedConditions:
    """What the denoiser sees.

    Tokens (B, N, context_dim) and channels (B, C, x, y, z), each None if unused.
    """

    tokens: Tensor | None
    spatial: Tensor | None


class ConditionEncoder(nn.Module):
    """Encode any combination of conditions.

    Args:
        config: the conditions of the model.
        downsampling: how much smaller per axis the latent grid is than the volume.
    """

    def __init__(self, config: ConditioningConfig, *, downsampling: int) -> None:
        super().__init__()
        self.config = config
        makers = {
            "class": lambda: ClassConditioner(config),
            "text": lambda: TextConditioner(config),
            "label_map": lambda: LabelMapConditioner(config, downsampling),
        }
        # ModuleDict cannot hold a key named "class": it would hide an attribute of nn.Module's namespace.
        self.conditioners = nn.ModuleDict({f"{name}_": makers[name]() for name in config.conditioning_type})

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions of this model, in the order of their tokens."""
        return self.config.conditioning_type

    def check(self, conditions: Conditions) -> None:
        """Refuse conditions the model was not trained with, and values outside their range.

        Raises:
            ValueError: naming the condition, what was found and what is allowed.
        """
        strangers = sorted(set(conditions.values) - set(self.names))
        if strangers:
            known = list(self.names) or "none (the model is unconditional)"
            raise ValueError(f"this model was trained without the conditions {strangers}: it knows {known}")
        for name, n_values in (
            ("class", self.config.num_classes),
            ("label_map", len(self.config.structures) + 1),
        ):
            if name not in conditions.values or n_values is None:
                continue
            value = conditions.values[name]
            present = value[~conditions.is_absent(name, len(value), value.device)]
            if present.numel() and (present.min() < 0 or present.max() >= n_values):
                raise ValueError(
                    f"{name} has values from {int(present.min())} to {int(present.max())}: "
                    f"this model knows 0 to {n_values - 1}"
                )

    def draw_dropout(self, batch_size: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw which samples lose which condition in this training step: name to (B,) bool.

        Source: Ho and Salimans 2022, Algorithm 1; independent for each condition.
        """
        draws = {name: torch.rand(batch_size, generator=generator) for name in self.names}
        return {name: draw < self.config.dropout_of(name) for name, draw in draws.items()}

    def encode_values(self, conditions: Conditions | None) -> dict[str, Tensor]:
        """Encode the values that are there, without their nulls; the costly part, once for a sampling."""
        values = {} if conditions is None else conditions.values
        return {name: self[name].encode(values[name]) for name in self.names if name in values}

    def assemble(
        self,
        encoded: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
        *,
        batch_size: int,
        latent_size: Sequence[int],
    ) -> EncodedConditions:
        """Put nulls in place and join the conditions.

        Args:
            encoded: of `encode_values`, repeated to B rows where a step has several passes.
            absent: name to (B,) bool; names that are missing are present in every row.
            batch_size: B.
            latent_size: the latent grid (x, y, z).
        """
        parts: dict[str, list[Tensor]] = {"tokens": [], "spatial": []}
        for name in self.names:
            conditioner = self[name]
            if name not in encoded:
                part = conditioner.expand_null(batch_size, latent_size)
            elif name in absent:
                part = conditioner.with_null(encoded[name], absent[name].to(encoded[name].device))
            else:
                part = encoded[name]
            if conditioner.kind == "spatial" and tuple(part.shape[2:]) != tuple(latent_size):
                raise ValueError(
                    f"the condition {name!r} comes to the grid {tuple(part.shape[2:])}, but the latents have "
                    f"{tuple(latent_size)}: give it on the grid of the volume"
                )
            parts[conditioner.kind].append(part)
        return EncodedConditions(
            tokens=torch.cat(parts["tokens"], dim=1) if parts["tokens"] else None,
            spatial=torch.cat(parts["spatial"], dim=1) if parts["spatial"] else None,
        )

    def forward(
        self,
        conditions: Conditions | None,
        *,
        batch_size: int,
        latent_size: Sequence[int],
        drop: Mapping[str, Tensor] | None = None,
    ) -> EncodedConditions:
        """Encode a batch of conditions.

        Args:
            conditions: the values, or None for the null of every condition.
            batch_size: B.
            latent_size: the latent grid (x, y, z).
            drop: name to (B,) bool: samples whose condition is replaced by its null.
        """
        conditions = Conditions({}) if conditions is None else conditions.drop(drop or {})
        encoded = self.encode_values(conditions)
        return self.assemble(encoded, conditions.absent, batch_size=batch_size, latent_size=latent_size)

    def __getitem__(self, name: str) -> Conditioner:
        conditioner = self.conditioners[f"{name}_"]
        if not isinstance(conditioner, Conditioner):
            raise TypeError(
                f"the conditioner of {name!r} is a {type(conditioner).__name__}, not a Conditioner"
            )
        return conditioner
