"""Noise paths, solvers and guidance, in one formalism over (alpha_t, sigma_t)."""

from medldm.diffusion.guidance import combine, guided_denoiser
from medldm.diffusion.inpainting import (
    InpaintingMask,
    Inversion,
    PartialStart,
    invert_noise,
    last_pairs,
    sample_from,
)
from medldm.diffusion.kernel import (
    LOSS_WEIGHTINGS,
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
    "LOSS_WEIGHTINGS",
    "PREDICTION_TYPES",
    "PRESETS",
    "SOLVERS",
    "DDPMPath",
    "Denoise",
    "FlowPath",
    "InpaintingMask",
    "Inversion",
    "NoisePath",
    "PartialStart",
    "PredictionType",
    "SamplingPreset",
    "Solver",
    "SolverStep",
    "add_noise",
    "combine",
    "estimates",
    "guided_denoiser",
    "invert_ddim",
    "invert_noise",
    "last_pairs",
    "loss_weight",
    "make_path",
    "posterior",
    "resolution_shift",
    "sample_from",
    "training_target",
]
