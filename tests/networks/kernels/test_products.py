from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medldm.networks.kernels import dispatch
from medldm.networks.kernels.products import attend_to, project
from medldm.networks.layers import (
    Linear,
)
from tests.networks.kernels.test_dispatch import claim_bfloat16


@pytest.mark.parametrize("shape", [(5, 6), (2, 40, 6), (1, 2, 3, 7, 6)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_layer_is_a_matrix_product(
    shape: tuple[int, ...], has_bias: bool, generator: torch.Generator
) -> None:
    layer = Linear(6, 10, bias=has_bias)
    x = torch.randn(shape, generator=generator)
    expected = F.linear(
        x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
    )
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(project(x, layer).double(), expected, rtol=1e-5, atol=1e-5)
        strided = x.transpose(0, -2)
        torch.testing.assert_close(project(strided, layer), F.linear(strided, layer.weight, layer.bias))


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("n_queries", [1, 256, 300])
@torch.no_grad()
def test_attention_in_bfloat16_is_that_of_float32(
    n_queries: int, has_bfloat16: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_bfloat16(monkeypatch, has_bfloat16)
    queries = torch.randn(2, 2, n_queries, 8, generator=generator)
    keys, values = torch.randn(2, 2, 2, 37, 8, generator=generator)
    low = [t.bfloat16() for t in (queries, keys, values)]
    assert dispatch.use_matrix_products(low[0], low[1]) is has_bfloat16
    assert not dispatch.use_matrix_products(queries, keys)
    expected = torch.softmax(queries @ keys.transpose(2, 3) / 8**0.5, dim=-1) @ values
    torch.testing.assert_close(attend_to(*low).float(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(attend_to(queries, keys, values), expected, rtol=1e-5, atol=1e-5)
