"""Attention among voxels and from voxels to a context.

Source: Vaswani et al. 2017, Eq. 1; Rombach et al. 2022, Section 3.3 and Appendix E.2.1 for the spatial
transformer.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.blocks import ResidualBlock
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.dispatch import fusable
from medldm.networks.kernels.products import attend_to
from medldm.networks.layers import Linear, Norm, conv, zero_init


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, n_heads: int) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v with `n_heads` heads.

    Args:
        queries: (B, N, C).
        keys: (B, M, C).
        values: (B, M, C).
        n_heads: divides C; d = C / n_heads.

    Returns:
        (B, N, C).
    """
    q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return attend_to(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens (B, N, channels) among themselves; one projection gives q, k and v.

    `n_heads` divides `channels`; with `has_projection` a last linear layer mixes the heads.
    """

    def __init__(self, channels: int, *, n_heads: int, qkv_bias: bool, has_projection: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.projection = Linear(channels, channels) if has_projection else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        queries, keys, values = self.to_qkv(tokens).chunk(3, dim=-1)
        return self.projection(attend(queries, keys, values, n_heads=self.n_heads))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (B, N, channels) to a context (B, M, context_dim).

    `n_heads` divides `channels`.
    """

    def __init__(self, channels: int, *, n_heads: int, context_dim: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_kv = Linear(context_dim, 2 * channels, bias=False)
        self.projection = Linear(channels, channels)

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Map (B, N, C), told (B, M, context_dim), to (B, N, C)."""
        projected = context.project(self) if isinstance(context, StaticContext) else self.to_kv(context)
        keys, values = projected.chunk(2, dim=-1)
        return self.projection(attend(self.to_q(tokens), keys, values, n_heads=self.n_heads))


class StaticContext:
    """Hold a context for one run with fixed weights: each cross-attention projects it once, not every step.

    It stands wherever a context (B, M, context_dim) may stand and gives the same outputs. Make a new one for
    each run: the keys and values it keeps are those of the weights, the device and the autocast setting that
    the first step saw, and so are hooks called once. Where a gradient may flow to the weights or to the
    context nothing is kept.

    Args:
        context: (B, M, context_dim).

    Raises:
        TypeError: if `context` is no tensor.
        ValueError: if it has not three axes.

    Examples:
        >>> layer = CrossAttention(8, n_heads=2, context_dim=6).requires_grad_(False)
        >>> context = StaticContext(torch.randn(1, 3, 6))
        >>> layer(torch.randn(1, 5, 8), context).shape
        torch.Size([1, 5, 8])
        >>> context.project(layer) is context.project(layer)
        True
    """

    def __init__(self, context: Tensor) -> None:
        if not isinstance(context, Tensor):
            raise TypeError(f"StaticContext: context is a {type(context).__name__}: a tensor is needed")
        if context.ndim != 3:
            raise ValueError(
                f"StaticContext: context has shape {tuple(context.shape)}: (B, tokens, context_dim) is needed"
            )
        self.context = context
        self._projections: dict[CrossAttention, Tensor] = {}

    @property
    def shape(self) -> torch.Size:
        """(B, M, context_dim)."""
        return self.context.shape

    def __len__(self) -> int:
        return len(self.context)

    def project(self, layer: CrossAttention) -> Tensor:
        """Return the keys and values (B, M, 2 C) of a layer, computed at its first call."""
        if dispatch.needs_graph(self.context, *layer.to_kv.parameters()):
            return layer.to_kv(self.context)
        if layer not in self._projections:
            self._projections[layer] = layer.to_kv(self.context)
        return self._projections[layer]


Context: TypeAlias = Tensor | StaticContext


class GatedFeedForward(nn.Module):
    """Two linear layers around x GELU(gate), four times as wide inside (Shazeer 2020, GEGLU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = Linear(channels, 8 * channels)
        self.contract = Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        values, gate = self.expand(tokens).chunk(2, dim=-1)
        return self.contract(values * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward layer, each normed and with a shortcut."""

    def __init__(self, channels: int, *, n_heads: int, context_dim: int, has_projection: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = SelfAttention(
            channels, n_heads=n_heads, qkv_bias=False, has_projection=has_projection
        )
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attention = CrossAttention(channels, n_heads=n_heads, context_dim=context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Map (B, N, C), told (B, M, context_dim), to (B, N, C)."""
        tokens = tokens + self.self_attention(self.norm1(tokens))
        tokens = tokens + self.cross_attention(self.norm2(tokens), context)
        return tokens + self.feed_forward(self.norm3(tokens))


class SpatialSelfAttention(nn.Module):
    """Attention among all voxels of a normalised feature map, around a shortcut; see `SelfAttention`."""

    def __init__(
        self, channels: int, *, n_heads: int, n_groups: int, norm_eps: float, has_projection: bool = True
    ) -> None:
        super().__init__()
        self.norm = Norm(n_groups, channels, eps=norm_eps)
        self.attention = SelfAttention(
            channels, n_heads=n_heads, qkv_bias=True, has_projection=has_projection
        )

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Map (B, C, X, Y, Z) to the same shape; a context is not looked at."""
        return x + to_volume(self.attention(to_tokens(self.norm(x))), like=x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the voxels of a feature map, told a context; starts as the identity.

    The tokens are `n_heads` times `head_channels` wide, whatever the channels of the map; `n_layers` blocks
    follow each other. With `has_projection` self-attention mixes its heads by a last linear layer.
    """

    def __init__(
        self,
        channels: int,
        *,
        n_heads: int,
        head_channels: int,
        context_dim: int,
        n_layers: int,
        n_groups: int,
        norm_eps: float,
        spatial_dims: int,
        has_projection: bool = True,
    ) -> None:
        super().__init__()
        width = n_heads * head_channels
        self.norm = Norm(n_groups, channels, eps=norm_eps)
        self.project_in = conv(channels, width, spatial_dims=spatial_dims, kernel_size=1)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, n_heads=n_heads, context_dim=context_dim, has_projection=has_projection)
            for _ in range(n_layers)
        )
        self.project_out = zero_init(conv(width, channels, spatial_dims=spatial_dims, kernel_size=1))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Map (B, C, X, Y, Z), told (B, M, context_dim), to the same shape."""
        if context is None:
            raise ValueError("this network has cross-attention: pass context (B, tokens, context_dim)")
        h = self.project_in(self.norm(x))
        tokens = to_tokens(h)
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + self.project_out(to_volume(tokens, like=h))


@fusable
class ResidualLayer(nn.Module):
    """A residual block and, where the level has it, attention: what all networks are made of."""

    def __init__(self, residual: ResidualBlock, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X, Y, Z)."""
        h = self.residual(x, embedding)
        return h if self.attention is None else self.attention(h, context)


def to_tokens(x: Tensor) -> Tensor:
    """Turn (B, C, X, Y, Z) into tokens (B, X Y Z, C)."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, *, like: Tensor) -> Tensor:
    """Turn tokens (B, X Y Z, C) into a feature map of the shape of `like`; the inverse of `to_tokens`."""
    return tokens.transpose(1, 2).reshape(like.shape)
