"""Conditions of the denoiser: class, scalar, text, label map, image; nulls, dropout and combination."""

from medldm.conditioning.conditioner import Conditioner, EncodedConditions
from medldm.conditioning.conditions import Conditions
from medldm.conditioning.config import CONDITION_TYPES, ConditioningConfig
from medldm.conditioning.encoder import ConditionEncoder
from medldm.conditioning.spatial_conditioners import ImageConditioner, LabelMapConditioner
from medldm.conditioning.text_encoder import open_text_encoder
from medldm.conditioning.token_conditioners import ClassConditioner, ScalarConditioner, TextConditioner

__all__ = [
    "CONDITION_TYPES",
    "ClassConditioner",
    "ConditionEncoder",
    "Conditioner",
    "ConditioningConfig",
    "Conditions",
    "EncodedConditions",
    "ImageConditioner",
    "LabelMapConditioner",
    "ScalarConditioner",
    "TextConditioner",
    "open_text_encoder",
]
