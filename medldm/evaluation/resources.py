"""What an evaluation may use beside the three cohorts; none of these paths comes into a report."""

from __future__ import annotations

from dataclasses import dataclass

from medldm.configs import Config


@dataclass(kw_only=True)
class EvaluationResources(Config):
    """Files of an evaluation; each is optional.

    Args:
        model: latent_diffusion.safetensors that made the synthetic cohort, for membership inference.
        reference_model: a second model of the same recipe that saw neither the real training nor the real
            test set: membership inference compares each case's loss with the loss of this model.
        reference_train: folder or datalist of the cases that the reference model was trained on: both models
            are then compared on swapped halves.
        text_encoder: folder of the text encoder of its training; None takes that of the extra
            ``medldm[text]``.
        device: where the model runs.
        feature_weights: safetensors file of MedicalNet's weights, for distances in a published network's
            features.
        cache_dir: features and encoder weights are kept here for the next evaluation of the same volumes,
            under names made of hashes; None keeps nothing.
    """

    model: str | None = None
    reference_model: str | None = None
    reference_train: str | None = None
    text_encoder: str | None = None
    device: str = "auto"
    feature_weights: str | None = None
    cache_dir: str | None = None
