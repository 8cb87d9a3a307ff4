"""Fit the linear path of a first stage to its training cohort, before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from monai.data import CacheDataset
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, RandomizableTrait, Transform
from torch import Tensor
from torch.utils.data import Dataset

from medldm.networks import VAE, VQVAE
from medldm.networks.linear_path import LinearPath
from medldm.runtime.distributed import all_reduce_sum, items_of_rank
from medldm.training.quarantine import BadCase, find_fault

logger = logging.getLogger(__name__)

CASES_FOR_ANGLES = 32
"""Cases, spread over the cohort, by which the angles of the lapped form are chosen: a few numbers in all."""


@torch.no_grad()
def fit_linear_path(network: VAE | VQVAE, training_set: Dataset[Any]) -> None:
    """Set a network's linear path to the principal components of a cohort; nothing where it is set or absent.

    One pass over the training volumes, whole and without random transforms where the data set can give them
    so; before it, in the lapped form, one over at most `CASES_FOR_ANGLES` of them. Several processes read a
    part each. Cases that cannot be used are left out.

    Args:
        network: whose path is set.
        training_set: cases with "image" (C, X, Y, Z).

    Raises:
        ConfigError: if no case can be used.
    """
    path = network.linear_path
    if path is None or bool(path.is_fitted):
        return
    indices = range(len(training_set))  # type: ignore[arg-type]
    if path.angles is not None:
        _fit_angles(path, training_set, indices[:: -(-len(indices) // CASES_FOR_ANGLES) or 1])
    moments, n_bad = path.make_moments(), 0
    for volume in _whole_volumes(training_set, indices):
        if volume is None:
            n_bad += 1
            continue
        path.count(volume[None], moments)
    _add_up(moments.tensors())
    transform = moments.fit()
    path.set_transform(transform)
    share = transform.variances[: path.n_components].sum() / transform.variances.sum().clamp(min=1e-30)
    logger.info(
        "linear path: %d of %d components hold %.2f %% of the variance of %d blocks%s",
        path.n_components,
        len(transform.variances),
        100 * float(share),
        int(moments.count),
        f"; {n_bad} cases of this process cannot be used and are left out" if n_bad else "",
    )


def _fit_angles(path: LinearPath, training_set: Any, indices: Sequence[int]) -> None:
    moments = path.make_border_moments()
    for volume in _whole_volumes(training_set, indices):
        if volume is not None:
            path.count_borders(volume[None], moments)
    _add_up(moments.tensors())
    path.set_borders(moments)
    angles = [] if path.angles is None else path.angles.tolist()
    logger.info("linear path: blocks reach over their borders, turned by %s", [round(a, 2) for a in angles])


def _add_up(sums: Iterable[Tensor]) -> None:
    """Replace each process's sums by those of all."""
    for values in sums:
        values.copy_(all_reduce_sum(values))


def _whole_volumes(dataset: Any, indices: Sequence[int]) -> Iterator[Tensor | None]:
    """Give the volume of each case of this process, None where it cannot be used."""
    for index in items_of_rank(indices):
        case = _without_random(dataset, index)
        is_bad = isinstance(case, BadCase) or find_fault(case["image"]) is not None
        yield None if is_bad else torch.as_tensor(case["image"])


def _without_random(dataset: Any, index: int) -> Any:
    """Return a case before the first random transform."""
    transform = getattr(dataset, "transform", None)
    if not (isinstance(dataset, MonaiDataset) and isinstance(transform, Compose)):
        return dataset[index]
    if isinstance(dataset, CacheDataset) and not dataset.hash_as_key and index < dataset.cache_num:
        case = dataset._cache[index]
        if case is not None:
            return case
    end = transform.get_index_of_first(
        lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
    )
    return transform(dataset.data[index], end=end)
