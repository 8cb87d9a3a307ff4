"""Noise paths, solvers and guidance, in one formalism over (alpha_t, sigma_t)."""

from medldm.diffusion.guidance import combine, guided_denoiser
from medldm.diffusion.inpainting import (
    InpaintingMask,
    Inversion,
    PartialStart,
    invert_noise,
    last_steps,
    sample_from,
)
from medldm.diffusion.kernel import (
    PREDICTION_TYPES,
    PredictionType,
    Step,
    add_noise,
    estimates,
    training_target,
)
from medldm.diffusion.loss import LOSS_WEIGHTINGS, denoising_losses, loss_weight
from medldm.diffusion.paths import DDPMPath, FlowPath, NoisePath, make_path
from medldm.diffusion.schedules import resolution_shift
from medldm.diffusion.solvers import (
    PRESETS,
    SOLVERS,
    Callback,
    Denoise,
    SamplingPreset,
    Solver,
    SolverProgress,
    SolverState,
    invert_ddim,
    make_solver,
    run_solver,
)
from medldm.diffusion.time_grids import GRIDS, make_steps

__all__ = [
    "GRIDS",
    "LOSS_WEIGHTINGS",
    "PREDICTION_TYPES",
    "PRESETS",
    "SOLVERS",
    "Callback",
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
    "SolverProgress",
    "SolverState",
    "Step",
    "add_noise",
    "combine",
    "denoising_losses",
    "estimates",
    "guided_denoiser",
    "invert_ddim",
    "invert_noise",
    "last_steps",
    "loss_weight",
    "make_path",
    "make_solver",
    "make_steps",
    "resolution_shift",
    "run_solver",
    "sample_from",
    "training_target",
]
