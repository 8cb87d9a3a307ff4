"""Trainings that begin with the weights of a checkpoint."""

from medldm.training.warm_start.autoencoder_start import plan_autoencoder_start
from medldm.training.warm_start.checkpoint import StartCheckpoint, open_start
from medldm.training.warm_start.denoiser_start import follow_denoiser, plan_denoiser_start
from medldm.training.warm_start.plan import StartPlan
from medldm.training.warm_start.rates import Rates, choose_rates

__all__ = [
    "Rates",
    "StartCheckpoint",
    "StartPlan",
    "choose_rates",
    "follow_denoiser",
    "open_start",
    "plan_autoencoder_start",
    "plan_denoiser_start",
]
