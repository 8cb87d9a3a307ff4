"""The interface of all conditions: values in, tokens and spatial channels out, a learned null for absence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medldm.networks.attention import Context, StaticContext


class EncodedConditions(NamedTuple):
    """What the denoiser sees of conditions.

    Attributes:
        tokens: (B, N, context_dim) for cross-attention; None if unused.
        spatial: (B, C, x, y, z) on the latent grid, joined to the denoiser's input; None if unused.
        pooled: (B, context_dim) each condition's mean token, added up, so that one token counts as much as a
            text of many; None if unused, and for single conditions.
        static: the tokens together with what attention layers project of them; None to project in each call.
    """

    tokens: Tensor | None = None
    spatial: Tensor | None = None
    pooled: Tensor | None = None
    static: StaticContext | None = None

    @property
    def context(self) -> Context | None:
        """What cross-attention is given."""
        return self.tokens if self.static is None else self.static

    def repeat(self, n_times: int) -> EncodedConditions:
        """Return tokens and spatial channels of the batch, n times one after the other."""
        tokens, spatial = self.tokens, self.spatial
        return EncodedConditions(
            None if tokens is None else tokens.repeat(n_times, 1, 1),
            None if spatial is None else spatial.repeat(n_times, 1, 1, 1, 1),
        )

    def for_many_steps(self) -> EncodedConditions:
        """Return the same for calls with fixed weights: each attention layer projects the tokens once."""
        return self if self.tokens is None else self._replace(static=StaticContext(self.tokens))


class Conditioner(nn.Module):
    """Turn the values of one condition into tokens, spatial channels, or both.

    Encoding is done once for a sampling; nulls are put in afterwards. A null has the shape of the encoding it
    stands for, so that a condition is absent in the same way whether others of the batch have it or not.

    Args:
        n_tokens: N of the tokens; 0 for none.
        context_dim: width of the tokens.
        n_channels: C of the spatial channels; 0 for none.
    """

    def __init__(self, *, n_tokens: int = 0, context_dim: int = 0, n_channels: int = 0) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.null_token = nn.Parameter(torch.randn(1, 1, context_dim)) if n_tokens else None
        self.null_channels = nn.Parameter(torch.randn(1, n_channels, 1, 1, 1)) if n_channels else None

    def encode(self, value: Tensor, unknown: Tensor | None = None) -> EncodedConditions:
        """Encode values that are present; shapes as the class says.

        Args:
            value: of the condition.
            unknown: (B, K) bool, structures that a label map does not cover; None for a map of all, and for
                other conditions.
        """
        raise TypeError(f"{type(self).__name__} does not say how it encodes its values")

    def with_null(self, encoded: EncodedConditions, absent: Tensor) -> EncodedConditions:
        """Put the null in the place of the encodings (B, ...) of absent samples; `absent` is (B,) bool."""
        return EncodedConditions(
            _replace_rows(encoded.tokens, self.null_token, absent),
            _replace_rows(encoded.spatial, self.null_channels, absent),
        )

    def expand_null(self, batch_size: int, latent_size: Sequence[int]) -> EncodedConditions:
        """Return the null for a whole batch, as `encode` shapes its values."""
        tokens, channels = self.null_token, self.null_channels
        return EncodedConditions(
            None if tokens is None else tokens.expand(batch_size, self.n_tokens, -1),
            None if channels is None else channels.expand(batch_size, -1, *latent_size),
        )


def _replace_rows(encoded: Tensor | None, null: Tensor | None, absent: Tensor) -> Tensor | None:
    if encoded is None or null is None:
        return encoded
    return torch.where(absent.view(-1, *[1] * (encoded.ndim - 1)), null.to(encoded.dtype), encoded)
