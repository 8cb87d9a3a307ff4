"""Noise paths, solvers and guidance, in one formalism over (alpha_t, sigma_t)."""

from medldm.diffusion.guidance import combine, guided_denoiser
from medldm.diffusion.kernel import (
    PREDICTION_TYPES,
    PredictionType,
    add_noise,
    estimates,
    loss_weight,
    posterior,
    resolution_shift,
    training_target,
)
from medldm.diffusion.paths import DDPMPath, FlowPath, NoisePath, make_path
from medldm.diffusion.solvers import (
    PRESETS,
    SOLVERS,
    Denoise,
    SamplingPreset,
    Solver,
    SolverStep,
    invert_ddim,
)
from medldm.diffusion.time_grids import GRIDS

__all__ = [
    "GRIDS",
    "PREDICTION_TYPES",
    "PRESETS",
    "SOLVERS",
    "DDPMPath",
    "Denoise",
    "FlowPath",
    "NoisePath",
    "PredictionType",
    "SamplingPreset",
    "Solver",
    "SolverStep",
    "add_noise",
    "combine",
    "estimates",
    "guided_denoiser",
    "invert_ddim",
    "loss_weight",
    "make_path",
    "posterior",
    "resolution_shift",
    "training_target",
]
