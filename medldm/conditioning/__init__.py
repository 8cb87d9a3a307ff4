"""Conditions of the denoiser: class, scalar, text, label map, image; nulls, dropout and combination."""

from medldm.conditioning.conditioner import EncodedConditions
from medldm.conditioning.conditions import Conditions
from medldm.conditioning.config import ConditioningConfig
from medldm.conditioning.encoder import ConditionEncoder
from medldm.conditioning.text_encoder import open_text_encoder

__all__ = ["ConditionEncoder", "ConditioningConfig", "Conditions", "EncodedConditions", "open_text_encoder"]
