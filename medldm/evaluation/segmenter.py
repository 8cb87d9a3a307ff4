"""A small 3D U-Net that segments the structures of a cohort: the measuring instrument of label agreement and
usefulness.

The same network, loss, number of steps and batches of the same seed whatever it is trained on, so that only
the training data differ.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.cases.sets import LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.transforms.window import centre_crop_or_pad

DIVISOR = 4
"""The network halves its input twice."""


@dataclass(kw_only=True)
class SegmenterConfig(Config):
    """Network and training.

    Args:
        channels: of the three levels.
        patch_size: largest patch along X, Y, Z; made smaller to the volumes, in multiples of 4.
        batch_size: patches in a step.
        n_steps: of a training; None lets the caller fit them into a time budget.
        max_steps: of a fitted training.
        learning_rate: highest of AdamW, falling to 0 on a cosine.
    """

    channels: tuple[int, int, int] = (16, 32, 64)
    patch_size: tuple[int, int, int] = (48, 48, 48)
    batch_size: int = 2
    n_steps: int | None = None
    max_steps: int = 600
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) != 3 or len(self.patch_size) != 3 or any(n < DIVISOR for n in self.patch_size):
            raise ConfigError(
                f"channels {self.channels} and patch_size {self.patch_size} are given; three levels and "
                f"three sizes of at least {DIVISOR} are needed"
            )
        self.require("[1, inf)", "batch_size", "n_steps", "max_steps")


class Segmenter:
    """A trained network with what it needs to segment.

    Args:
        network: (B, 1, X, Y, Z) to (B, K + 1, X, Y, Z).
        patch: sliding window.
    """

    def __init__(self, network: nn.Module, patch: tuple[int, int, int]) -> None:
        self.network = network.eval()
        self.patch = patch

    @torch.no_grad()
    def segment(self, image: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the labels 0..K (X, Y, Z) of an image (X, Y, Z)."""
        array = standardise(np.asarray(image, dtype=np.float32))
        shape = np.maximum(array.shape, self.patch).tolist()
        padded = torch.from_numpy(np.ascontiguousarray(centre_crop_or_pad(array, shape)))[None, None]
        scores = sliding_window_inference(padded, self.patch, 4, self.network, overlap=0.25)
        return centre_crop_or_pad(torch.as_tensor(scores).argmax(dim=1)[0].numpy(), array.shape)


def train_segmenter(
    cases: Sequence[LabelledImage],
    config: SegmenterConfig | None = None,
    *,
    n_structures: int,
    n_steps: int,
    seed: int = 0,
) -> Segmenter:
    """Train a segmenter.

    Args:
        cases: images and labels 0..K, of any shapes.
        config: of network and training.
        n_structures: K.
        n_steps: of the optimiser.
        seed: of weights, patches and changes of intensity; the same seed and cases give the same segmenter.

    Raises:
        TooFewCasesError: for no cases.
        ValueError: for an image whose labels have another shape.
    """
    config = config or SegmenterConfig()
    prepared = [_prepare(image, labels) for image, labels in cases]
    if not prepared:
        raise TooFewCasesError("there is no case to train a segmenter on")
    patch = patch_for([image.shape for image, _ in prepared], config)
    shapes = [np.maximum(image.shape, patch).tolist() for image, _ in prepared]
    prepared = [
        (centre_crop_or_pad(image, shape), centre_crop_or_pad(labels, shape))
        for (image, labels), shape in zip(prepared, shapes, strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=n_structures + 1,
            channels=config.channels,
            strides=(2, 2),
            num_res_units=1,
            norm="INSTANCE",
        )
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=max(n_steps, 2)
    )
    criterion = DiceCELoss(softmax=True, to_onehot_y=True)
    network.train()
    for _ in range(n_steps):
        images, labels = _draw_batch(prepared, patch, config.batch_size, generator=generator)
        loss = criterion(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Segmenter(network, patch)


def seconds_per_step(
    cases: Sequence[LabelledImage], config: SegmenterConfig, *, n_structures: int, n_steps: int = 3
) -> float:
    """Time a few steps of a training on this machine."""
    train_segmenter(cases[:1], config, n_structures=n_structures, n_steps=1)
    start = time.monotonic()
    train_segmenter(cases[: config.batch_size], config, n_structures=n_structures, n_steps=n_steps)
    return (time.monotonic() - start) / n_steps


def patch_for(shapes: Sequence[Sequence[int]], config: SegmenterConfig) -> tuple[int, int, int]:
    """Return the patch: the median volume, rounded up to multiples of 4, at most the configured one."""
    wanted = np.ceil(np.median(shapes, axis=0) / DIVISOR)
    most = np.array(config.patch_size) // DIVISOR
    x, y, z = (int(n) * DIVISOR for n in np.minimum(wanted, most))
    return x, y, z


def standardise(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the image with mean 0 and standard deviation 1."""
    return np.asarray((image - image.mean()) / max(float(image.std()), 1e-6), dtype=np.float32)


def _prepare(image: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> LabelledImage:
    if image.shape != labels.shape:
        raise ValueError(
            f"an image of {image.shape} has labels of {labels.shape}; the shapes must be the same"
        )
    return standardise(np.asarray(image, dtype=np.float32)), np.asarray(labels, dtype=np.int64)


def _draw_batch(
    cases: Sequence[LabelledImage], patch: Sequence[int], size: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return random patches with a random gain and offset: (B, 1, X, Y, Z) images and labels."""
    images, maps = [], []
    for index in torch.randint(len(cases), (size,), generator=generator).tolist():
        image, labels = cases[index]
        starts = [
            int(torch.randint(n - part + 1, (1,), generator=generator))
            for n, part in zip(image.shape, patch, strict=True)
        ]
        place = tuple(slice(start, start + part) for start, part in zip(starts, patch, strict=True))
        gain, offset = (0.2 * torch.randn(2, generator=generator)).tolist()
        images.append(torch.from_numpy(np.ascontiguousarray(image[place])) * (1 + gain) + offset)
        maps.append(torch.from_numpy(np.ascontiguousarray(labels[place])))
    return torch.stack(images)[:, None], torch.stack(maps)[:, None]
