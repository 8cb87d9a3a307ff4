"""What a config that nobody vouches for may name: components, attributes, functions and methods.

This is the one place that says so. A component is listed only if no argument of plain values makes it run
code, start a process or open a connection, and every folder it writes into is named here as well.
"""

from __future__ import annotations

from collections.abc import Mapping

_MEDLDM = {
    "medldm": """
        ConditioningConfig LatentDiffusionConfig LatentDiffusionModel LatentDiffusionSampler LatentUNet
        LatentUNetConfig PatchDiscriminator UNet VAE VAEConfig VQVAE VQVAEConfig
        """,
    "medldm.workflows": "init_distributed initialise_distributed_run run_generation run_training",
    "medldm.runtime.devices": "choose_device",
    "medldm.data.cohort": "count_channels",
    "medldm.evaluation.cases.reading": "GridConfig split_cohort",
    "medldm.evaluation.features.contrastive": "ContrastiveConfig",
    "medldm.evaluation.config": "EvaluationConfig",
    "medldm.evaluation.quality_gate": "QualityGateConfig make_quality_gate",
    "medldm.evaluation.segmenter": "SegmenterConfig",
    "medldm.evaluation.sections.classifier_trainings": "RealOrSyntheticConfig",
    "medldm.evaluation.sections.usefulness": "UsefulnessConfig",
    "medldm.generation.engine": "GenerationEvaluator LatentDiffusionInferer SamplingConfig",
    "medldm.generation.requests": "GenerationDataset make_preparer",
    "medldm.latent_diffusion.label_maps": """
        build_label_map_autoencoder describe_with_schema label_map_space load_label_map_model
        make_label_map_diffusion require_schema
        """,
    "medldm.label_maps.generation": "LabelMapGenerator LabelMapInferer",
    "medldm.latent_diffusion.model": "build_autoencoder",
    "medldm.latent_diffusion.model_files": """
        describe_autoencoder describe_latent_diffusion load_latent_diffusion make_latent_diffusion
        """,
    "medldm.networks": """
        LatentUNet LatentUNetConfig PatchDiscriminator PatchDiscriminatorConfig UNet VAE VAEConfig VQVAE
        VQVAEConfig
        """,
    "medldm.networks.patch_discriminator": "fit_discriminator",
    "medldm.networks.unet_config": "UNetConfig",
    "medldm.sampling.sampler": "LatentDiffusionSampler",
    "medldm.sampling.config": "SamplingConfig",
    "medldm.training": """
        AutoencoderLoss AutoencoderLossConfig AutoencoderTrainingConfig GuardedTransforms Quarantine
        TextureFitting
        build_autoencoder_training build_diffusion_training case_transforms check_sharding choose_augmentation
        choose_autoencoder choose_denoiser choose_frozen choose_rates conditioning_of count_epochs
        measure_space open_cohort open_start plan_autoencoder_start plan_denoiser_start trainer_of
        volume_transforms
        """,
    "medldm.training.decoder": "DecoderConfig",
    "medldm.training.losses.label_maps": "LabelMapLoss LabelMapLossConfig measure_class_weights",
    "medldm.training.label_maps": """
        LabelMapEvaluator LabelMapSampleWriter OneHotInferer label_map_case_transforms label_map_transforms
        """,
    "medldm.transforms": """
        CentreCropOrPad CentreCropOrPadd ForegroundCrop ForegroundCropd LoadVolume LoadVolumed
        N4BiasCorrection N4BiasCorrectiond PadToMultiple PadToMultipled ResampleToSpacing ResampleToSpacingd
        """,
}

# By the short names that MONAI's bundles use. Left out on purpose: whatever loads a class by its name
# (LoadImage), unpickles (CheckpointLoader, PersistentDataset) or takes text as code (Lambda).
_MONAI = """
    CacheDataset Compose DataLoader Dataset EarlyStopHandler EnsureTyped RandFlipd RandGaussianNoised
    RandScaleIntensityd RandShiftIntensityd ScaleIntensityRanged SimpleInferer SlidingWindowInferer
    StatsHandler ValidationHandler
    """

_OTHERS = {
    "ignite.handlers": "EarlyStopping TerminateOnNan Timer",
    "torch.optim": "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop SGD",
    "torch.utils.data": "DataLoader",
}

WRITERS: Mapping[str, tuple[str, ...]] = {
    "medldm.label_maps.choice.choose_label_maps": ("drawing::output_dir",),
    "medldm.training.encode_cases": ("directory",),
    "medldm.editing.files.make_editor": ("output_dir",),
    "medldm.workflows.text_encoder_for": ("cache_dir",),
    "medldm.workflows.initialise_run": ("output_dir",),
    "medldm.workflows.run_evaluation": ("output_dir",),
    "medldm.evaluation.resources.EvaluationResources": ("cache_dir",),
    "medldm.label_maps.generation.LabelMapWriter": ("output_dir",),
    "medldm.generation.files.SyntheticWriter": ("output_dir",),
    "medldm.training.RunConfig": ("output_dir",),
    "medldm.training.TrainingLog": ("directory",),
    "medldm.training.decoder.DecoderAdaptation": ("path", "latents_dir"),
}
"""Components that write files, and their arguments that name the folder."""

TARGETS = frozenset(
    f"{module}.{name}" for module, names in (_MEDLDM | _OTHERS).items() for name in names.split()
).union(_MONAI.split(), WRITERS)
"""What `_target_` may name, spelt exactly so."""

_ATTRIBUTES = """
    autoencoder channels conditioning_config denoiser evaluator learning_rate n_classes n_structures names
    size space spacing_mm split_record structures trainer training validation warmup_steps
    """
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
"""What an expression may read of an object. A name is listed only if no object of these components leads
through it to a Python module or to a function of one."""

FUNCTIONS = frozenset({"abs", "bool", "float", "int", "len", "max", "min", "round", "str"})
"""What an expression may call by name."""

METHODS: Mapping[str, int] = {"parameters": 0, "run": 0, "to": 1}
"""What an expression may call on an object, and with how many arguments."""

MODES = ("default", "callable")
"""What `_mode_` may be; "debug" opens a debugger."""

OUTPUT_KEYS = ("bundle_root", "output_dir", "synthetic_dir", "evaluation_dir", "edited_dir")
"""Keys that widen where a run may write when the command line, not the config, sets them."""

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 40
MAX_NODES = 20_000
MAX_EXPRESSION = 500
