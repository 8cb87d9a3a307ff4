"""Features of the cases of an evaluation; scales and encoders are fitted to the real training set alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image
from medldm.evaluation.features.cache import FeatureCache, entry_key
from medldm.evaluation.features.contrastive import (
    ContrastiveConfig,
    ContrastiveEncoder,
    train_contrastive_encoder,
)
from medldm.evaluation.features.radiomics import radiomics_features
from medldm.evaluation.features.space import fit_feature_space
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.frechet import CASES_FOR_EACH_FEATURE
from medldm.evaluation.metrics.spectrum import power_of_cases
from medldm.networks.weights import load_weights, require_fit
from medldm.runtime.distributed import gather_rows

MAX_COMPONENTS = 16


@dataclass(frozen=True, kw_only=True)
class SetFeatures:
    """Features of the sets "train", "test", "synthetic", "noise" and, where there is one, "ceiling".

    Args:
        radiomics: (N, D) standardised on the real training set.
        reduced: (N, K) principal components of them, as many as the sets' sizes allow.
        contrastive: (N, E) of the encoder; None where it could not be trained.
        encoder: trained on the real training set.
        power: (N, shells) of the spectra.
        frequency: (shells,) in cycles per mm.
    """

    radiomics: dict[str, Floats]
    reduced: dict[str, Floats]
    contrastive: dict[str, Floats] | None
    encoder: ContrastiveEncoder | None
    power: dict[str, Floats]
    frequency: Floats


def extract_features(
    sets: CaseSets,
    *,
    contrastive: ContrastiveConfig,
    n_workers: int = 2,
    cache: FeatureCache | None = None,
    progress: Callable[[str], None] | None = None,
) -> SetFeatures:
    """Extract the features of all sets; scales and the encoder are fitted to the real training set alone.

    Args:
        sets: the cases.
        contrastive: encoder and its training.
        n_workers: volumes at a time.
        cache: of an earlier evaluation; None remembers nothing.
        progress: told what is being done.
    """
    cache = cache or FeatureCache(None)
    tell = progress or (lambda _: None)
    parts = sets.named()
    tell("radiomics features")
    limits = sets.train.file_range if sets.is_ct else (0.0, 1.0)
    raw = {
        name: _radiomics(part, limits=limits, n_workers=n_workers, cache=cache)
        for name, part in parts.items()
    }
    standardised, reduced = standardise_sets(raw)
    tell("training the contrastive encoder")
    embedded, encoder = None, None
    if len(sets.train) >= 4:
        # Boxed, as the search for copies sees them: resizing other shapes to one would change scales.
        encoder = _recall_encoder(sets.train.boxed_images(sets.shape), contrastive, cache)
        embedded = {name: encoder.embed(part.boxed_images(sets.shape)) for name, part in parts.items()}
    tell("power spectra")
    power = {name: power_of_cases(part.images, sets.spacing_mm) for name, part in parts.items()}
    n_shells = power["train"].shape[1]
    highest = 0.5 / max(sets.spacing_mm)
    return SetFeatures(
        radiomics=standardised,
        reduced=reduced,
        contrastive=embedded,
        encoder=encoder,
        power=power,
        frequency=(np.arange(n_shells) + 0.5) * highest / n_shells,
    )


def standardise_sets(raw: dict[str, Floats]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Standardise features on the real training set.

    Args:
        raw: (N, D) by the name of the set, "train" among them.

    Returns:
        (N, D') standardised, and (N, K) principal components, as many as the smallest set allows a Frechet
        distance of.

    Raises:
        ValueError: for features that do not fit.
        NotMeasurableError: where none varies over the training set.
    """
    space = fit_feature_space(raw["train"])
    n_components = min(min(map(len, raw.values())) // CASES_FOR_EACH_FEATURE, MAX_COMPONENTS)
    standardised = {name: space.standardise(each) for name, each in raw.items()}
    return standardised, {name: space.reduce(each, max(n_components, 1)) for name, each in raw.items()}


def _radiomics(part: CaseSet, *, limits: tuple[float, float], n_workers: int, cache: FeatureCache) -> Floats:
    def recall(image: Image) -> Floats:
        settings = {"limits": list(limits)}
        return cache.recall_row(
            "radiomics", image, settings, lambda: [*radiomics_features(image, limits=limits).values()]
        )

    def recall_some(images: Sequence[Image]) -> list[Floats]:
        with ThreadPoolExecutor(n_workers) as pool:
            return list(pool.map(recall, images))

    return gather_rows(part.images, recall_some)


def _recall_encoder(
    volumes: Sequence[Image], config: ContrastiveConfig, cache: FeatureCache
) -> ContrastiveEncoder:
    """Train the encoder, or load the weights that the same training gave."""
    settings = {"config": config.to_dict(), "n_threads": torch.get_num_threads()}
    encoder = ContrastiveEncoder(config)
    weights = cache.recall(
        "contrastive",
        entry_key(volumes, settings),
        lambda: train_contrastive_encoder(volumes, config).state_dict(),
        check=lambda entry: require_fit(encoder.state_dict(), entry, source="the feature cache"),
    )
    load_weights(encoder, weights, source="the feature cache")
    return encoder.eval()
