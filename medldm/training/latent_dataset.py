"""The latents that stage 2 trains on, and what is measured of a whole cohort of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medldm.diffusion.modes import to_modes
from medldm.errors import ConfigError
from medldm.latent_diffusion.appearance import measure_appearance
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.training.augmentation import Augmentation
from medldm.training.augmented_cases import load_entry, pick_copy
from medldm.training.quarantine import BadCase


class LatentDataset(Dataset[Any]):
    """Hold the posterior of each case's latents, with its conditions.

    Args:
        entries: of each case: "mean" and "std" (C, x, y, z), and its conditions; or the file that holds them;
            or the `BadCase` that it is.
        made_from: a hash of what each case holds; None takes the entries' own.
        transform: that the cases went through, as plain values.
        copies: further, augmented entries of each case.
        augmentation: that made them; None for cases as they are alone.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Tensor] | Path | BadCase],
        *,
        made_from: Sequence[str] | None = None,
        transform: Any = None,
        copies: Sequence[Sequence[dict[str, Tensor] | Path | BadCase]] = (),
        augmentation: Augmentation | None = None,
    ) -> None:
        self.entries = entries
        self.made_from = made_from
        self.transform = transform
        self.copies = copies
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Tensor] | BadCase:
        """Return an entry; of augmented cases, the copy that a `DrawnCase` says, else the case as it is."""
        if self.augmentation is None:
            return load_entry(self.entries[index])
        return pick_copy([self.entries[index], *self.copies[index]], self.augmentation, index)

    def case_hashes(self) -> list[str]:
        """Return a hash of what each case holds, wherever its files lie, in their order."""
        if self.made_from is not None:
            return list(self.made_from)
        entries = [self[index] for index in range(len(self))]
        return ["bad" if isinstance(entry, BadCase) else hash_weights(entry)[:16] for entry in entries]

    def sound_entries(self) -> Iterator[dict[str, Tensor]]:
        """Give the entries of the cases that are no `BadCase`."""
        for index in range(len(self)):
            entry = self[index]
            if not isinstance(entry, BadCase):
                yield entry

    def measure_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (C,) of the sampled latents over all cases, in float64.

        The variance of a sample is that of the means plus the mean of the variances.
        """
        n, total, squares = 0, torch.zeros(1), torch.zeros(1)
        total, squares = total.double(), squares.double()
        for entry in self.sound_entries():
            mean, std = entry["mean"].double().flatten(1), entry["std"].double().flatten(1)
            n += mean.shape[1]
            total = total + mean.sum(dim=1)
            squares = squares + (mean**2 + std**2).sum(dim=1)
        mean = total / n
        return mean, (squares / n - mean**2).clamp(min=0).sqrt()


def measure_latent_statistics(
    model: LatentDiffusionModel, dataset: LatentDataset, *, scaling: str = "unit", of_modes: bool = False
) -> None:
    """Measure the latents of the whole training cohort; the model keeps their mean and standard deviation.

    Args:
        model: whose latents they are.
        dataset: of the training cohort.
        scaling: `latent_scaling` of `LatentDiffusionConfig`.
        of_modes: whether the spread of their cosine modes is measured too.

    Raises:
        TypeError: if the dataset holds volumes, not latents.
        ConfigError: if it holds no case.
    """
    if not isinstance(dataset, LatentDataset):
        raise TypeError(
            f"the second stage trains on a LatentDataset, not on {type(dataset).__name__}: make it with "
            "cache_latents"
        )
    if len(dataset) == 0:
        raise ConfigError("there are no cases to encode: the cohort's list of training cases is empty")
    model.set_latent_statistics(*dataset.measure_statistics(), scaling=scaling)
    model.set_latent_spectrum(measure_spectrum(model, dataset) if of_modes else None)
    if n_told := model.unet_config.appearance_channels:
        means = (entry["mean"][None].to(model.latent_shift) for entry in dataset.sound_entries())
        model.set_appearance(*measure_appearance((model.standardise(mean)[0] for mean in means), n_told))


def measure_spectrum(model: LatentDiffusionModel, dataset: LatentDataset) -> Tensor:
    """Return the root of the mean square (C, x, y, z) of each cosine mode of standardised latents, float64.

    The variance of the posterior is the same in all modes. Modes that hardly vary get a millionth of their
    channel's variance, so that nothing divides by zero.
    """
    n, total = 0, torch.zeros(1).double()
    for entry in dataset.sound_entries():
        mean = model.standardise(entry["mean"][None].to(model.latent_shift).double())[0].cpu()
        std = (entry["std"].double().flatten(1) * model.latent_scale.double().cpu()[:, None]).square().mean(1)
        total = total + to_modes(mean).square() + std.view(-1, *[1] * (mean.ndim - 1))
        n += 1
    power = total / n
    floor = 1e-6 * power.flatten(1).mean(1)
    return torch.maximum(power, floor.view(-1, *[1] * (power.ndim - 1))).sqrt()
