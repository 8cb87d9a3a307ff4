"""medldm: 3D latent diffusion for medical images.

The names below are loaded when they are first used (PEP 562), and so are the rooms: `import medldm` is quick
and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medldm.runtime.early_stop import end_command_of_monai_on_signals
from medldm.runtime.endings import end_as_medldm_does
from medldm.version import __version__

if TYPE_CHECKING:
    from medldm.conditioning import ConditioningConfig, Conditions
    from medldm.latent_diffusion.config import LatentDiffusionConfig
    from medldm.latent_diffusion.model import LatentDiffusionModel
    from medldm.networks import (
        VAE,
        VQVAE,
        LatentUNet,
        LatentUNetConfig,
        PatchDiscriminator,
        UNet,
        VAEConfig,
        VQVAEConfig,
    )
    from medldm.sampling.sampler import LatentDiffusionSampler
    from medldm.sharing.pretrained import from_pretrained, save_pretrained
    from medldm.training import LatentDiffusionTrainer

__all__ = [
    "VAE",
    "VQVAE",
    "ConditioningConfig",
    "Conditions",
    "LatentDiffusionConfig",
    "LatentDiffusionModel",
    "LatentDiffusionSampler",
    "LatentDiffusionTrainer",
    "LatentUNet",
    "LatentUNetConfig",
    "PatchDiscriminator",
    "UNet",
    "VAEConfig",
    "VQVAEConfig",
    "__version__",
    "from_pretrained",
    "save_pretrained",
]

_HOMES = {
    "ConditioningConfig": "conditioning",
    "Conditions": "conditioning",
    "LatentDiffusionConfig": "latent_diffusion.config",
    "LatentDiffusionModel": "latent_diffusion.model",
    "LatentDiffusionSampler": "sampling.sampler",
    "LatentDiffusionTrainer": "training",
    "from_pretrained": "sharing.pretrained",
    "save_pretrained": "sharing.pretrained",
}
"""The modules of the public names that are not in `networks`."""


# `python -m monai.bundle` comes here before the first step of a workflow: most of a start-up is still ahead.
end_command_of_monai_on_signals()
end_as_medldm_does()


def __getattr__(name: str) -> Any:
    if name in __all__:
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'networks')}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
