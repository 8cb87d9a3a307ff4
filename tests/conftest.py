"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)
# The commands that tests start compute with one thread too: more would wait for cores that others use.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Flushing guards against a power cut, which no test plays; what a killed process wrote is there without it.
# It took half the time of a tiny training. `test_files.py` looks at when files are flushed.
os.fsync = lambda handle: None


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the identity key of trainings out of the home of whoever runs the tests."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real volumes, or a skip with the reason."""
    folder = Path(os.environ.get("MEDLDM_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MEDLDM_REAL_DATA")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator, fresh for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Path]:
    """Write a cohort of small volumes: a bright ellipsoid (1) with a brighter core (5) in a dark surround.

    Each named channel but the first is the first one inverted, in other units.
    """

    def make(
        n_cases: int = 4,
        *,
        shape: tuple[int, int, int] = (17, 20, 15),
        name: str = "cohort",
        channels: Sequence[str] = (),
    ) -> Path:
        folder = tmp_path / name
        rng = np.random.default_rng(0)
        affine = np.array([[-1.0, 0, 0, 8.5], [0, 0, 1.25, -9], [0, 1.0, 0, 3], [0, 0, 0, 1]])
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for case in range(n_cases):
            centre = np.asarray(shape) / 2 + rng.uniform(-1, 1, 3)
            distance = np.linalg.norm((np.indices(shape).T - centre) / np.asarray(shape), axis=-1).T
            labels = np.where(distance < 0.15, 5, np.where(distance < 0.3, 1, 0))
            image = 100 * (labels == 1) + 180 * (labels == 5) + rng.normal(20, 4, shape)
            for place, channel in enumerate(channels or ("",)):
                voxels = (image if place == 0 else 1000 * place - 4 * image).astype(np.float32)
                ending = f"_{channel}" if channel else ""
                nib.save(nib.Nifti1Image(voxels, affine), folder / "images" / f"case_{case}{ending}.nii.gz")
            nib.save(
                nib.Nifti1Image(labels.astype(np.uint8), affine), folder / "labels" / f"case_{case}.nii.gz"
            )
        (folder / "labels.json").write_text('{"1": "shell", "5": "core"}')
        if channels:
            (folder / "channels.json").write_text(json.dumps({"channels": list(channels)}))
        return folder

    return make


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Build a tiny latent diffusion model with random weights, its output layer included.

    With channels the second one is CT.
    """
    from medldm import ConditioningConfig, LatentDiffusionModel, LatentUNetConfig, VAEConfig
    from medldm.latent_diffusion.volume_space import VolumeSpace

    def make(
        conditioning_type: tuple[str, ...] = ("class", "label_map"),
        *,
        channels: tuple[str, ...] = (),
        **options: Any,
    ) -> LatentDiffusionModel:
        torch.manual_seed(0)
        described = {"num_classes": 3, "structures": {1: "shell", 5: "core"}, "text_embed_dim": 6} | options
        conditioning = ConditioningConfig(conditioning_type=conditioning_type, context_dim=8, **described)
        model = LatentDiffusionModel(
            autoencoder_config=VAEConfig(
                in_channels=len(channels) or 1,
                out_channels=len(channels) or 1,
                down_channels=(4, 8, 8),
                n_groups=4,
                latent_channels=3,
                n_res_blocks=1,
                mid_attention=False,
            ),
            conditioning_config=conditioning,
            unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1),
            space=VolumeSpace(
                spacing_mm=(1, 1, 1),
                size=(16, 20, 16),
                intensity=_name_mappings(channels),
                channels=channels,
            ),
        )
        # Some layers start at zero; random weights make every input matter.
        for weight in model.denoiser.unet.parameters():
            if weight.ndim > 1 and not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
        return model.eval()

    return make


def _name_mappings(channels: Sequence[str]) -> Any:
    from medldm.transforms import IntensityMapping

    mapping = IntensityMapping(kind="mr_percentile", lower=10.0, upper=200.0)
    own = {
        name: IntensityMapping(kind="ct_window") if place == 1 else mapping
        for place, name in enumerate(channels)
    }
    return own or mapping


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is imported: in forks, each visit would copy it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
