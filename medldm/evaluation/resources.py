"""What an evaluation may use beside the three cohorts; none of these paths comes into a report."""

from __future__ import annotations

from dataclasses import dataclass

from medldm.configs import Config


@dataclass(kw_only=True)
class EvaluationResources(Config):
    """Files of an evaluation; each is optional.

    Args:
        model: latent_diffusion.safetensors that made the synthetic cohort, for membership inference.
        text_encoder: folder of the text encoder of its training; None takes that of the extra
            ``medldm[text]``.
        device: where the model runs.
        feature_weights: safetensors file of MedicalNet's weights, for distances in a published network's
            features.
        cache_dir: features and encoder weights are kept here for the next evaluation of the same volumes,
            under names made of hashes; None keeps nothing.
    """

    model: str | None = None
    text_encoder: str | None = None
    device: str = "auto"
    feature_weights: str | None = None
    cache_dir: str | None = None
