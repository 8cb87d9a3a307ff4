"""Checkpoints: whole, strict, verified, without pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import hash_weights, load_checkpoint, save_checkpoint
from medldm.networks.weights import load_weights


def test_weights_and_card_come_back(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(3, 2),
        "b.c": torch.arange(4),
        "half": torch.randn(2).half(),
        "n": torch.tensor(3.0),
    }
    digest = save_checkpoint(tmp_path / "x.safetensors", weights, {"kind": "test", "n": 1})
    loaded = load_checkpoint(tmp_path / "x.safetensors", kind="test")
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in weights.items())
    assert loaded.card["n"] == 1
    assert loaded.card["weights_sha256"] == digest == hash_weights(weights)
    assert set(loaded.card["versions"]) == {"medldm", "torch", "monai"}


def test_hash_depends_on_names_types_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).half()},
        {"a": torch.ones(2, 3)},
    ]
    assert len({hash_weights(weights) for weights in [base, *others]}) == 5


def test_saving_leaves_one_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path / "x.safetensors", {"a": torch.tensor(value)}, {"kind": "test"})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_checkpoint(tmp_path / "x.safetensors").weights["a"] == 2.0


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {"kind": "test"})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(
            tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "test", "n": float("nan")}
        )
    assert load_checkpoint(tmp_path / "x.safetensors").weights["a"] == 1.0
    assert len(list(tmp_path.iterdir())) == 1


def test_the_header_is_plain_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {"kind": "test"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["medldm"])["kind"] == "test"


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.ones(8)}, {"kind": "test"})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_missing_foreign_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")
    pickled = tmp_path / "evil.pt"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_checkpoint(pickled)
    save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {"kind": "autoencoder"})
    with pytest.raises(CheckpointError, match="kind 'autoencoder'; 'latent_diffusion' is needed"):
        load_checkpoint(tmp_path / "x.safetensors", kind="latent_diffusion")


def test_loading_is_strict_and_says_what_differs() -> None:
    module = torch.nn.Linear(2, 3)
    with pytest.raises(
        CheckpointError, match=r"1 missing \['bias'\], 1 surplus \['extra'\], 1 of another shape"
    ):
        load_weights(module, {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}, source="file")
