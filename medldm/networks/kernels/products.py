"""Linear layers and attention, the fastest way that is equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.networks.kernels import dispatch

_ROWS = 256
"""Queries whose products with all keys exist at a time."""


def project(x: Tensor, layer: nn.Linear) -> Tensor:
    """Map (..., in) to (..., out) as `layer` says."""
    if not dispatch.use_onednn_linear(x, layer):
        return dispatch.in_native_dtype(F.linear, x, layer.weight, layer.bias)
    volume = x.reshape(1, -1, 1, 1, x.shape[-1]).movedim(-1, 1)
    kernel = layer.weight.detach()[..., None, None, None]
    bias = None if layer.bias is None else layer.bias.detach()
    y = torch.mkldnn_convolution(volume, kernel, bias, [0] * 3, [1] * 3, [1] * 3, 1)
    return y.movedim(1, -1).reshape(*x.shape[:-1], len(kernel))


def attend_to(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for heads (B, heads, N, d) and (B, heads, M, d)."""
    if not dispatch.use_matrix_products(queries, keys):
        return dispatch.in_native_dtype(F.scaled_dot_product_attention, queries, keys, values)
    transposed = keys.transpose(2, 3) * keys.shape[3] ** -0.5
    rows = [torch.softmax(part @ transposed, dim=-1) @ values for part in queries.split(_ROWS, dim=2)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
