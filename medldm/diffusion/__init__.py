"""Noise paths, solvers and guidance, in one formalism over (alpha_t, sigma_t)."""

from medldm.diffusion.guidance import guided_denoiser
from medldm.diffusion.inpainting import (
    InpaintingMask,
    Inversion,
    PartialStart,
    invert_noise,
    last_steps,
    sample_from,
)
from medldm.diffusion.kernel import PREDICTION_TYPES
from medldm.diffusion.loss import LOSS_WEIGHTINGS, denoising_losses
from medldm.diffusion.paths import DDPMPath, FlowPath, NoisePath, make_path
from medldm.diffusion.solvers import PRESETS, SOLVERS, STOCHASTIC, Callback, Denoise, make_solver, run_solver
from medldm.diffusion.time_grids import make_steps, steps_from_level

__all__ = [
    "LOSS_WEIGHTINGS",
    "PREDICTION_TYPES",
    "PRESETS",
    "SOLVERS",
    "STOCHASTIC",
    "Callback",
    "DDPMPath",
    "Denoise",
    "FlowPath",
    "InpaintingMask",
    "Inversion",
    "NoisePath",
    "PartialStart",
    "denoising_losses",
    "guided_denoiser",
    "invert_noise",
    "last_steps",
    "make_path",
    "make_solver",
    "make_steps",
    "run_solver",
    "sample_from",
    "steps_from_level",
]
