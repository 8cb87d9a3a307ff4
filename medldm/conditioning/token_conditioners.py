"""Conditions that reach the denoiser through cross-attention: class, scalar, text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medldm.conditioning.conditioner import Conditioner, EncodedConditions

N_FREQUENCIES = 3
"""Up to two periods over the range: near values get near tokens, and none of them names a training case."""


class ClassConditioner(Conditioner):
    """Give each category one learned token: (B,) int64 in [0, n_classes) -> (B, 1, context_dim)."""

    def __init__(self, n_classes: int, *, context_dim: int) -> None:
        super().__init__(n_tokens=1, context_dim=context_dim)
        self.n_classes = n_classes
        self.embedding = nn.Embedding(n_classes, context_dim)

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Look the tokens up."""
        return EncodedConditions(tokens=self.embedding(value.long().clamp(0, self.n_classes - 1))[:, None])


class ScalarConditioner(Conditioner):
    """Give a number one token: (B,) float -> (B, 1, context_dim).

        u = 2 (x - low) / (high - low) - 1;    features u, sin(2^k pi u / 2), cos(2^k pi u / 2)

    The token begins with a variance near one, that of a class's and of the null: with a tenth of it a number
    is not heard beside them.

    Args:
        low: lowest value in training.
        high: highest value in training.
        context_dim: width of the token.

    Source: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions", Section 3.
    """

    frequencies: Tensor

    def __init__(self, low: float, high: float, *, context_dim: int) -> None:
        super().__init__(n_tokens=1, context_dim=context_dim)
        self.low, self.high = low, high
        frequencies = math.pi / 2 * 2.0 ** torch.arange(N_FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(1 + 2 * N_FREQUENCIES, context_dim), nn.SiLU(), nn.Linear(context_dim, context_dim)
        )
        for parameter in self.layers.parameters():
            if parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Map the range of the training to [-1, 1] and embed it."""
        u = (2 * (value.double() - self.low) / (self.high - self.low) - 1).to(self.frequencies.dtype)
        angles = u[:, None] * self.frequencies
        features = torch.cat([u[:, None], angles.sin(), angles.cos()], dim=1)
        return EncodedConditions(tokens=self.layers(features)[:, None])


class TextConditioner(Conditioner):
    """Project token embeddings of a text: (B, n, embed_dim), n up to n_tokens -> (B, n_tokens, context_dim).

    Texts with fewer tokens are padded by a learned token.
    """

    def __init__(self, embed_dim: int, *, n_tokens: int, context_dim: int) -> None:
        super().__init__(n_tokens=n_tokens, context_dim=context_dim)
        self.projection = nn.Linear(embed_dim, context_dim)
        self.padding = nn.Parameter(torch.randn(1, 1, context_dim))

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Project each token and pad."""
        width = self.projection.in_features
        if value.ndim != 3 or value.shape[-1] != width or not 1 <= value.shape[1] <= self.n_tokens:
            raise ValueError(
                f"text embeddings have the shape {tuple(value.shape)}: (B, N, {width}) with N from 1 to "
                f"{self.n_tokens} is needed"
            )
        tokens = self.projection(value.to(self.projection.weight.dtype))
        n_missing = self.n_tokens - tokens.shape[1]
        padding = self.padding.to(tokens.dtype).expand(tokens.shape[0], n_missing, -1)
        return EncodedConditions(tokens=torch.cat([tokens, padding], dim=1))
