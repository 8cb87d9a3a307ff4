"""How the denoiser is told the time.

Source: Vaswani et al. 2017, Section 3.5, as used by Ho et al. 2020, Appendix B.
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
    """Sinusoids followed by two linear layers, (B,) -> (B, 4 dim).

    Args:
        dim: width of the sinusoidal embedding.
    """

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
