"""A saved model comes back as it was, to the bit, and samples the same volume."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from medldm import LatentDiffusionSampler, from_pretrained, save_pretrained
from medldm.errors import CheckpointError, ConfigError, MissingFileError
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.sharing.copies import copy_bundle
from medldm.sharing.package import PackageConfig, package_model
from medldm.sharing.shipped import find_bundle
from tests.sharing.conftest import CONFIG, SPLIT


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_model_and_its_samples_come_back_to_the_bit(make_model, tmp_path) -> None:
    model = make_model(("class",))
    model.set_latent_statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.1, 2.2, 3.3]))
    save_pretrained(tmp_path / "saved", model, CONFIG)
    loaded = from_pretrained(tmp_path / "saved")
    own, other = model.state_dict(), loaded.model.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    assert loaded.config.describe_diffusion() == CONFIG.describe_diffusion()
    assert loaded.model.space == model.space and loaded.model.conditioning_config == model.conditioning_config
    draws = [
        LatentDiffusionSampler(each, config).sample((1, 3, 4, 5, 4), num_steps=2, seed=3)
        for each, config in ((model, CONFIG), (loaded.model, loaded.config))
    ]
    assert torch.equal(*draws)


def test_what_a_card_says_beyond_the_networks_is_kept(save_label_map_model, save_model, tmp_path) -> None:
    maps = from_pretrained(save_label_map_model())
    with pytest.raises(ConfigError, match="card="):
        save_pretrained(tmp_path / "saved", maps.model, maps.config)
    save_pretrained(tmp_path / "saved", *maps[:2], card=maps.card)
    assert from_pretrained(tmp_path / "saved").card == maps.card
    images = from_pretrained(save_model().parent)
    save_pretrained(tmp_path / "saved", *images[:2], card=images.card)
    assert from_pretrained(tmp_path / "saved").card["split"] == SPLIT.to_dict()


def test_a_package_loads_from_its_folder_as_its_file_does(save_model, tmp_path) -> None:
    config = PackageConfig(licence="Apache-2.0", torchscript=False, half="bfloat16")
    folder = package_model(save_model(), tmp_path / "shared", config).folder
    own = load_latent_diffusion(folder / "models" / "latent_diffusion.safetensors")[0].state_dict()
    loaded = from_pretrained(folder).model.state_dict()
    assert all(torch.equal(own[name], loaded[name]) for name in own)


def test_a_bundle_without_weights_says_what_to_do(tmp_path: Path) -> None:
    copy_bundle(find_bundle("mri_label_ldm"), tmp_path / "mine")
    with pytest.raises(MissingFileError, match="no weights yet: train it, medldm train all"):
        from_pretrained(tmp_path / "mine")
    with pytest.raises(ConfigError, match="Unknown bundle 'mri'"):
        from_pretrained("mri")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        from_pretrained(tmp_path / "none.safetensors")
