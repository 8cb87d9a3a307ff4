"""MedicalNet's features from a local safetensors file: strict, without pickle, without the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import resnet10
from safetensors.torch import save_file
from torch import Tensor

from medldm.errors import CheckpointError
from medldm.training.losses.perceptual import MedicalNetLoss
from medldm.training.losses.reconstruction import AutoencoderLoss, AutoencoderLossConfig


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = resnet10(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    )
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items()}


@pytest.fixture
def file(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(weights, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_the_distance_is_zero_for_equal_volumes_and_follows_the_gradient(file: Path) -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig(perceptual_weights=str(file))).perceptual
    real = torch.randn(2, 1, 17, 16, 18, generator=torch.Generator().manual_seed(0))
    fake = (real + 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    assert loss(real, real) == 0
    distance = loss(fake, real)
    distance.backward()
    assert 0 < distance < 4  # of vectors of length 1
    assert loss(fake.detach() - 0.1 * fake.grad / fake.grad.abs().max(), real) < distance
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    # Brightness and contrast of a volume are not what it compares; a batch equals its volumes alone.
    assert torch.allclose(loss(3 * fake.detach() - 1, real), distance, rtol=1e-4)
    alone = [loss(fake.detach()[i : i + 1], real[i : i + 1]) for i in range(2)]
    assert torch.allclose(torch.stack(alone).mean(), distance, rtol=1e-4)


def test_training_mode_does_not_reach_the_features(file: Path) -> None:
    assert not MedicalNetLoss(file).train().network.training


def test_weights_of_another_network_are_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.safetensors do not fit"):
        MedicalNetLoss(file, network="medicalnet_resnet50_23datasets")
    with pytest.raises(ValueError, match="perceptual_network 'resnet10'"):
        AutoencoderLossConfig(perceptual_weights=str(file), perceptual_network="resnet10")


def test_pickled_weights_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"pickled weights \(\.pth\) are not read"):
        MedicalNetLoss(tmp_path / "weights.pth")


def test_channels_are_compared_one_by_one(file: Path) -> None:
    loss = MedicalNetLoss(file)
    real, fake = (torch.randn(2, 3, 17, 16, 18, generator=torch.Generator().manual_seed(i)) for i in range(2))
    alone = [loss(fake[:, c : c + 1], real[:, c : c + 1]) for c in range(3)]
    assert torch.allclose(loss(fake, real), torch.stack(alone).mean(), rtol=1e-5)
