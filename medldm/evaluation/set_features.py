"""Features of the cases of an evaluation; scales and encoders are fitted to the real training set alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medldm.evaluation.case_sets import CaseSet, CaseSets
from medldm.evaluation.contrastive import ContrastiveConfig, ContrastiveEncoder, train_contrastive_encoder
from medldm.evaluation.feature_checks import Floats
from medldm.evaluation.feature_space import fit_feature_space
from medldm.evaluation.frechet import CASES_FOR_EACH_FEATURE
from medldm.evaluation.radiomics import radiomics_features
from medldm.evaluation.spectrum import power_of_cases

MAX_COMPONENTS = 16


@dataclass(frozen=True, kw_only=True)
class SetFeatures:
    """Features of the sets "train", "test", "synthetic" and "noise".

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
    progress: Callable[[str], None] | None = None,
) -> SetFeatures:
    """Extract the features of all sets; scales and the encoder are fitted to the real training set alone."""
    tell = progress or (lambda _: None)
    parts = {name: getattr(sets, name) for name in ("train", "test", "synthetic", "noise")}
    tell("radiomics features")
    limits = sets.train.file_range if sets.is_ct else (0.0, 1.0)
    raw = {name: _radiomics(part, limits=limits, n_workers=n_workers) for name, part in parts.items()}
    standardised, reduced = standardise_sets(raw)
    tell("training the contrastive encoder")
    embedded, encoder = None, None
    if len(sets.train) >= 4:
        # Boxed, as the search for copies sees them: resizing other shapes to one would change scales.
        encoder = train_contrastive_encoder(sets.train.boxed_images(sets.shape), contrastive)
        embedded = {name: encoder.embed(part.boxed_images(sets.shape)) for name, part in parts.items()}
    tell("power spectra")
    power = {name: power_of_cases(part.images, [sets.spacing_mm] * len(part)) for name, part in parts.items()}
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
        ValueError: for features that do not fit, or none that varies over the training set.
    """
    space = fit_feature_space(raw["train"])
    n_components = min(min(map(len, raw.values())) // CASES_FOR_EACH_FEATURE, MAX_COMPONENTS)
    standardised = {name: space.standardise(each) for name, each in raw.items()}
    return standardised, {name: space.reduce(each, max(n_components, 1)) for name, each in raw.items()}


def _radiomics(part: CaseSet, *, limits: tuple[float, float], n_workers: int) -> Floats:
    with ThreadPoolExecutor(n_workers) as pool:
        rows = list(
            pool.map(lambda image: list(radiomics_features(image, limits=limits).values()), part.images)
        )
    return np.array(rows)
