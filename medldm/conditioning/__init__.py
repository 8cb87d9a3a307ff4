"""Conditions of the denoiser: class, label map, text; their nulls, dropout and combination."""

from medldm.conditioning.conditioners import (
    ClassConditioner,
    Conditioner,
    LabelMapConditioner,
    TextConditioner,
)
from medldm.conditioning.conditions import Conditions
from medldm.conditioning.config import CONDITION_TYPES, ConditioningConfig
from medldm.conditioning.encoder import ConditionEncoder, EncodedConditions

__all__ = [
    "CONDITION_TYPES",
    "ClassConditioner",
    "ConditionEncoder",
    "Conditioner",
    "ConditioningConfig",
    "Conditions",
    "EncodedConditions",
    "LabelMapConditioner",
    "TextConditioner",
]
