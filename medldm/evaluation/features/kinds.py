"""Kinds of features that distances between sets are taken in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """How a report names features.

    Args:
        key: end of the figures' keys.
        name: in brackets after the figures' titles.
        meaning: one sentence about a distance in these features.
        note: about where the features come from.
    """

    key: str
    name: str
    meaning: str
    note: str = ""


RADIOMICS = FeatureKind(
    key="radiomics",
    name="radiomics",
    meaning="Whether texture and intensity features are distributed as in real volumes; 0 on average "
    "for equal distributions, whatever the number of cases.",
)
CONTRASTIVE = FeatureKind(
    key="contrastive",
    name="contrastive",
    meaning="The same in features that a small network learned from the real training set, which see "
    "anatomy more than texture.",
)
