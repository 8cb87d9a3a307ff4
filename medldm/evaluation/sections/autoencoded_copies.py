"""Copies that blur hides: synthetic volumes against autoencoded training cases, as images and in the latents.

The same rule as of the other searches. Real test cases, autoencoded like the training cases, give the
threshold; copies that were disguised and then autoencoded measure what the search can find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.cases.reading import Cohorts, number_subjects
from medldm.evaluation.features.autoencoded import (
    ModelVolumes,
    OwnAutoencoder,
    Volume,
    image_detector,
    latent_detector,
    own_autoencoder,
    plant_autoencoded,
)
from medldm.evaluation.metrics.neighbours import NeighbourConfig
from medldm.evaluation.sections.privacy import DetectorResult, search_volumes

NAMES = ("autoencoded", "latents")
"""Of the detectors: images against autoencoded images, and latents against latents."""


def search_autoencoded(
    evaluated: EvaluatedModel,
    cohorts: Cohorts,
    *,
    neighbours: NeighbourConfig,
    quantile: float,
    n_planted: int,
    n_searches: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[DetectorResult]:
    """Search copies among volumes as the model's training prepared them.

    Args:
        evaluated: the model that made the synthetic cohort.
        cohorts: of the evaluation.
        neighbours: what counts as the same volume.
        quantile: of the test volumes, for the threshold.
        n_planted: copies to plant.
        n_searches: detectors of the evaluation, which share the false alarms that are allowed.
        seed: of the planted copies.
        progress: told what is being done.
    """
    volumes = {name: ModelVolumes(part.cases, evaluated) for name, part in cohorts._asdict().items()}
    return search_in_volumes(
        volumes,
        own_autoencoder(evaluated),
        train_subjects=number_subjects(cohorts.train.cases),
        neighbours=neighbours,
        quantile=quantile,
        n_planted=n_planted,
        n_searches=n_searches,
        seed=seed,
        progress=progress,
    )


def search_in_volumes(
    volumes: dict[str, Sequence[Volume]] | dict[str, ModelVolumes],
    autoencoder: OwnAutoencoder,
    *,
    train_subjects: Sequence[object],
    neighbours: NeighbourConfig,
    quantile: float,
    n_planted: int,
    n_searches: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[DetectorResult]:
    """Search copies by both detectors.

    Args:
        volumes: (C, X, Y, Z) in [-1, 1] of "train", "test" and "synthetic".
        autoencoder: of the model.
        train_subjects: of the training volumes.
        neighbours: as in `search_autoencoded`, like the following.
        quantile: of the test volumes.
        n_planted: copies to plant.
        n_searches: detectors of the evaluation.
        seed: of the planted copies.
        progress: told what is being done.
    """
    progress("autoencoding the real cases")
    real = {name: [autoencoder.reconstruct(each) for each in volumes[name]] for name in ("train", "test")}
    searched = {"test": real["test"], "synthetic": list(volumes["synthetic"])}
    planted, sources = plant_autoencoded(volumes["train"], n_planted, autoencoder, seed=seed)
    detectors = {
        "autoencoded": image_detector(real["train"], neighbours),
        "latents": latent_detector(real["train"], autoencoder),
    }
    found = []
    for name, detector in detectors.items():
        progress(f"search for copies: {name}")
        found.append(
            search_volumes(
                name,
                detector,
                searched,
                train_subjects=train_subjects,
                plant=lambda: (planted, sources),
                quantile=quantile,
                n_searches=n_searches,
            )
        )
    return found
