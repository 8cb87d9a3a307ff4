"""Both training stages on MONAI's engines."""

from medldm.training.assembly import (
    Training,
    build_autoencoder_training,
    build_diffusion_training,
    trainer_of,
)
from medldm.training.augmentation import Augmentation, AugmentationConfig
from medldm.training.augmentation_choice import choose_augmentation
from medldm.training.autoencoder import AutoencoderEvaluator, AutoencoderTrainer
from medldm.training.autoencoder_size import choose_autoencoder
from medldm.training.averaging import average_weights
from medldm.training.batches import ValidationBatches
from medldm.training.cohort_space import measure_space
from medldm.training.condition_columns import conditioning_of
from medldm.training.configs import AutoencoderTrainingConfig, RunConfig
from medldm.training.denoiser_size import choose_denoiser, choose_denoiser_size
from medldm.training.denoising_task import DenoisingTask
from medldm.training.diffusion import DiffusionEvaluator, DiffusionTrainer
from medldm.training.handlers import CheckpointWriter, LossBar, TrainingLog
from medldm.training.latent_cache import cache_latents, encode_cases
from medldm.training.latent_dataset import LatentDataset, measure_latent_statistics
from medldm.training.length import count_epochs
from medldm.training.loader import training_loader
from medldm.training.losses.reconstruction import AutoencoderLoss, AutoencoderLossConfig
from medldm.training.optimisation import OptimiserStep, make_schedule
from medldm.training.precision import autocast
from medldm.training.previews import SampleWriter, SliceWriter
from medldm.training.quarantine import GuardedTransforms, Quarantine
from medldm.training.resume.divergence import DivergenceConfig
from medldm.training.resume.state_handler import TrainingStateHandler
from medldm.training.sharding import check_sharding
from medldm.training.texture import TextureFitting
from medldm.training.texture_fit import fit_texture
from medldm.training.trainer import LatentDiffusionTrainer
from medldm.training.volumes import (
    case_transforms,
    gather_conditions,
    open_cohort,
    volume_transforms,
)
from medldm.training.warm_start import choose_rates, open_start, plan_autoencoder_start, plan_denoiser_start
from medldm.training.warm_start.freezing import choose_frozen

__all__ = [
    "Augmentation",
    "AugmentationConfig",
    "AutoencoderEvaluator",
    "AutoencoderLoss",
    "AutoencoderLossConfig",
    "AutoencoderTrainer",
    "AutoencoderTrainingConfig",
    "CheckpointWriter",
    "DenoisingTask",
    "DiffusionEvaluator",
    "DiffusionTrainer",
    "DivergenceConfig",
    "GuardedTransforms",
    "LatentDataset",
    "LatentDiffusionTrainer",
    "LossBar",
    "OptimiserStep",
    "Quarantine",
    "RunConfig",
    "SampleWriter",
    "SliceWriter",
    "TextureFitting",
    "Training",
    "TrainingLog",
    "TrainingStateHandler",
    "ValidationBatches",
    "autocast",
    "average_weights",
    "build_autoencoder_training",
    "build_diffusion_training",
    "cache_latents",
    "case_transforms",
    "check_sharding",
    "choose_augmentation",
    "choose_autoencoder",
    "choose_denoiser",
    "choose_denoiser_size",
    "choose_frozen",
    "choose_rates",
    "conditioning_of",
    "count_epochs",
    "encode_cases",
    "fit_texture",
    "gather_conditions",
    "make_schedule",
    "measure_latent_statistics",
    "measure_space",
    "open_cohort",
    "open_start",
    "plan_autoencoder_start",
    "plan_denoiser_start",
    "trainer_of",
    "training_loader",
    "volume_transforms",
]
