"""The perceptual term of the first stage with the features of MedicalNet, from a local file.

The network is MONAI's ResNet; nothing is fetched, and no code but this package's and MONAI's runs. Weights
are read as safetensors only.
"""

from __future__ import annotations

from pathlib import Path

from monai.networks.nets import ResNet
from torch import Tensor, nn

from medldm.networks.pretrained.medicalnet import load_medicalnet

_NAMES = {"medicalnet_resnet10_23datasets": "resnet10", "medicalnet_resnet50_23datasets": "resnet50"}
NETWORKS = tuple(_NAMES)


class MedicalNetLoss(nn.Module):
    """Compare volumes by the features of a ResNet that was trained on medical volumes.

    Each volume is brought to mean 0 and deviation 1, each position's features to length 1; the loss is the
    squared distance, averaged over positions.

    Args:
        path: safetensors file of the network's weights, named as MedicalNet names them.
        network: "medicalnet_resnet10_23datasets" or "medicalnet_resnet50_23datasets".

    Raises:
        CheckpointError: if the file is no safetensors file, or its weights are not that network's.

    Source: Chen et al. 2019, "Med3D: Transfer Learning for 3D Medical Image Analysis"; the distance is Zhang
    et al. 2018, "The Unreasonable Effectiveness of Deep Features", Eq. 1, with equal weights.
    """

    def __init__(self, path: str | Path, *, network: str = NETWORKS[0]) -> None:
        super().__init__()
        self.network: ResNet = load_medicalnet(path, names=[_NAMES[network]])[1]
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> MedicalNetLoss:
        """Stay as in evaluation: the features must not depend on the batch."""
        return super().train(False)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the distance, a scalar, of volumes (B, C, X, Y, Z): the mean over their channels."""
        fake, real = (volume.flatten(0, 1).unsqueeze(1) for volume in (fake, real))
        return (self._features(fake) - self._features(real)).square().sum(dim=1).mean()

    def _features(self, volume: Tensor) -> Tensor:
        axes = tuple(range(1, volume.ndim))
        centred = volume - volume.mean(dim=axes, keepdim=True)
        network = self.network
        x = centred / (centred.square().mean(dim=axes, keepdim=True) + 1e-8).sqrt()
        x = network.maxpool(network.act(network.bn1(network.conv1(x))))
        x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
        return x / (x.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()
