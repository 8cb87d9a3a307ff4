"""How the denoiser is told the time, how a sample was augmented, what its input is like, and places.

Source: Vaswani et al. 2017, Section 3.5, as used by Ho et al. 2020, Appendix B, for the time; Karras et al.
2022, Appendix F, for augmentations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


def sinusoidal_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Embed times as cosines, then sines, of frequencies falling geometrically from 1 to 1 / 10000.

    Args:
        timesteps: (B,) whole or not.
        dim: width of the embedding; an odd one ends with a zero.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


class TimeEmbedding(nn.Module):
    """Sinusoids followed by two linear layers, (B,) -> (B, dim) -> (B, 4 dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.out_dim = 4 * dim
        self.linear1 = nn.Linear(dim, self.out_dim)
        self.linear2 = nn.Linear(self.out_dim, self.out_dim)

    def forward(self, timesteps: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Embed times (B,); `dtype` is that of the network's input."""
        embedding = sinusoidal_embedding(timesteps, self.dim).to(dtype)
        return self.linear2(F.silu(self.linear1(embedding)))


class AugmentationEmbedding(nn.Module):
    """Two linear layers without bias, (B, n) -> (B, dim) -> (B, out_dim); the second starts at zero.

    Zeros, which stand for a sample as it is, are embedded as zeros by any weights: a network that is told
    zeros is the network that is told nothing.
    """

    def __init__(self, n_channels: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(n_channels, dim, bias=False)
        self.linear2 = nn.Linear(dim, out_dim, bias=False)
        nn.init.zeros_(self.linear2.weight)

    def forward(self, augmentation: Tensor) -> Tensor:
        """Embed what was done (B, n)."""
        return self.linear2(F.silu(self.linear1(augmentation)))


class StatisticsEmbedding(nn.Module):
    """Tell a network what its normalisations take away: level, spread and grain of its input's channels.

    Group normalisation takes the mean and the standard deviation of a volume's maps away, and with them how
    bright, how rich in contrast and how grainy the volume is. Two linear layers embed, of each channel, the
    mean, the logarithm of the standard deviation, and that of the differences of neighbours along each axis
    divided by sqrt(2), which for white noise are the same. The second layer starts at zero.

    Source of the problem: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
    Models", 2312.02696, Section 2, which leaves such normalisations out.
    """

    SCALE = 4.0
    """Brings the statistics of different volumes about one apart."""

    def __init__(self, n_channels: int, dim: int, out_dim: int, *, spatial_dims: int = 3) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.linear1 = nn.Linear(n_channels * (2 + spatial_dims), dim)
        self.linear2 = nn.Linear(dim, out_dim, bias=False)
        nn.init.zeros_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the first channels of x (B, at least n_channels, ...) in x's dtype."""
        # One sample at a time: the order of additions in a batched reduction may depend on the batch.
        told = torch.stack([channel_statistics(sample[: self.n_channels].float()) for sample in x])
        return self.linear2(F.silu(self.linear1((self.SCALE * told).to(x.dtype))))


class InputGains(nn.Module):
    """Give a level, and multiples of a network's input and of its fine part, that depend on the embedding.

        y_c = b_c + g_c x_c + f_c (x_c - mean of x_c over 3^3 voxels)

    How much of the finest detail of a noisy volume is signal depends on the noise, on how grainy the case is
    and on little else: it asks for a factor, and brightness for a level, which a network of normalised maps
    learns slowly. The last layer starts at zero.

    Args:
        n_channels: of the input, the first ones, and of what is returned.
        embedding_dim: width of the embedding.
    """

    HIDDEN = 64

    def __init__(self, n_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.linear1 = nn.Linear(embedding_dim, self.HIDDEN)
        self.linear2 = nn.Linear(self.HIDDEN, 3 * n_channels)
        for parameter in self.linear2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, n_channels, ...) from x (B, at least n_channels, ...) and (B, embedding_dim)."""
        x = x[:, : self.n_channels]
        gains = self.linear2(F.silu(self.linear1(F.silu(embedding))))
        of_all, of_fine, level = gains.view(*gains.shape, *[1] * (x.ndim - 2)).chunk(3, dim=1)
        average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
        return (
            level + of_all * x + of_fine * (x - average(x, 3, stride=1, padding=1, count_include_pad=False))
        )


def channel_statistics(sample: Tensor) -> Tensor:
    """Return mean, log of the sd, and log of the sd of neighbours' differences per axis, (n,) of (C, ...)."""
    axes = tuple(range(1, sample.ndim))
    squares = [(sample - sample.mean(axes, keepdim=True)).square()]
    squares += [sample.diff(dim=axis).square() / 2 for axis in axes if sample.shape[axis] > 1]
    squares += [squares[0]] * (sample.ndim - len(squares))
    logs = [0.5 * (square.mean(axes) + 1e-6).log() for square in squares]
    return torch.cat([sample.mean(axes), *logs])


def with_position(x: Tensor, n_frequencies: int) -> Tensor:
    """Join to (B, C, X, Y, Z) the sines and cosines of each voxel's position.

        u = (i + 1/2) / n along an axis of n voxels;    sin(2^k pi u), cos(2^k pi u), k from 0

    A convolution sees the same everywhere but at the edges. Where anatomy lies in much the same place of all
    volumes, these channels tell it at once what else it would have to learn from the edges.

    Args:
        x: any number of spatial axes.
        n_frequencies: of each axis; 0 returns `x`.

    Returns:
        (B, C + 2 axes n_frequencies, X, Y, Z).

    Source: Liu et al. 2018, "An Intriguing Failing of Convolutional Neural Networks and the CoordConv
    Solution", Section 3; Tancik et al. 2020, Section 3, for the frequencies.
    """
    if n_frequencies == 0:
        return x
    size = x.shape[2:]
    frequencies = math.pi * 2.0 ** torch.arange(n_frequencies, device=x.device)
    features = []
    for axis, n in enumerate(size):
        angles = (torch.arange(n, device=x.device) + 0.5) / n * frequencies[:, None]
        waves = torch.cat([angles.sin(), angles.cos()])
        shape = [len(waves), *(n if each == axis else 1 for each in range(len(size)))]
        features.append(waves.view(shape).expand(-1, *size))
    position = torch.cat(features).to(x.dtype)
    return torch.cat([x, position.expand(len(x), *position.shape)], dim=1)
