"""Where a voxel lies in its grid, as channels of a network's input."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
