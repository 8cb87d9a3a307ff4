from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medldm.networks.attention import (
    CrossAttention,
    GatedFeedForward,
    ResidualLayer,
    SelfAttention,
    SpatialSelfAttention,
    SpatialTransformer,
    StaticContext,
    attend,
    to_tokens,
    to_volume,
)
from medldm.networks.blocks import ResidualBlock

Randomise = Callable[[nn.Module], nn.Module]


def attend_plainly(queries: Tensor, keys: Tensor, values: Tensor, n_heads: int) -> Tensor:
    """Vaswani et al. 2017, Eq. 1, head by head and in float64."""
    heads = []
    for q, k, v in zip(*(x.double().chunk(n_heads, dim=-1) for x in (queries, keys, values)), strict=True):
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        heads.append(weights @ v)
    return torch.cat(heads, dim=-1).to(queries.dtype)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
@pytest.mark.parametrize("n_keys", [1, 5, 7])
def test_attention_is_the_softmax_of_scaled_products(
    n_heads: int, n_keys: int, generator: torch.Generator
) -> None:
    queries = torch.randn(2, 5, 8, generator=generator)
    keys, values = torch.randn(2, 2, n_keys, 8, generator=generator)
    expected = attend_plainly(queries, keys, values, n_heads)
    torch.testing.assert_close(attend(queries, keys, values, n_heads=n_heads), expected, rtol=1e-5, atol=1e-5)


def test_self_attention_permutes_with_its_tokens(randomise: Randomise, generator: torch.Generator) -> None:
    layer = randomise(SelfAttention(8, n_heads=2, qkv_bias=True))
    tokens, order = torch.randn(2, 6, 8, generator=generator), torch.randperm(6, generator=generator)
    torch.testing.assert_close(layer(tokens[:, order]), layer(tokens)[:, order], rtol=0, atol=1e-6)


def test_cross_attention_ignores_the_order_of_the_context(
    randomise: Randomise, generator: torch.Generator
) -> None:
    layer = randomise(CrossAttention(8, n_heads=2, context_dim=3))
    tokens, context = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 5, 3, generator=generator)
    torch.testing.assert_close(layer(tokens, context.flip(1)), layer(tokens, context), rtol=0, atol=1e-6)
    assert not torch.allclose(layer(tokens, context + 1), layer(tokens, context))


def test_cross_attention_to_one_token_ignores_the_queries(
    randomise: Randomise, generator: torch.Generator
) -> None:
    layer = randomise(CrossAttention(8, n_heads=2, context_dim=3))
    context = torch.randn(1, 1, 3, generator=generator)
    tokens = torch.randn(1, 4, 8, generator=generator)
    value = layer.projection(layer.to_kv(context).chunk(2, dim=-1)[1])
    torch.testing.assert_close(layer(tokens, context), value.expand(1, 4, 8), rtol=1e-5, atol=1e-5)


def test_static_context_gives_the_outputs_of_its_tensor_and_projects_once(
    randomise: Randomise, generator: torch.Generator
) -> None:
    layer = randomise(CrossAttention(8, n_heads=2, context_dim=3)).requires_grad_(False)
    other = randomise(CrossAttention(8, n_heads=2, context_dim=3)).requires_grad_(False)
    context = torch.randn(2, 5, 3, generator=generator)
    static, n_calls = StaticContext(context), []
    layer.to_kv.register_forward_hook(lambda *_: n_calls.append(1))
    for _ in range(3):
        tokens = torch.randn(2, 4, 8, generator=generator)
        found = layer(tokens, static), other(tokens, static)
        assert torch.equal(torch.stack(found), torch.stack([layer(tokens, context), other(tokens, context)]))
    assert len(n_calls) == 1 + 3


def test_static_context_keeps_nothing_where_gradients_flow(
    randomise: Randomise, generator: torch.Generator
) -> None:
    layer = randomise(CrossAttention(8, n_heads=2, context_dim=3))
    context, tokens = torch.randn(1, 5, 3, generator=generator), torch.randn(1, 4, 8, generator=generator)
    static = StaticContext(context)
    gradients = [
        torch.autograd.grad(layer(tokens, given).square().sum(), layer.to_kv.weight)[0]
        for given in (context, static, static)
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        (torch.zeros(5, 3), ValueError, r"shape \(5, 3\): \(B, tokens, context_dim\) is needed"),
        ([[[1.0]]], TypeError, "a list: a tensor is needed"),
    ],
)
def test_static_context_refuses_what_is_no_context(
    context: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        StaticContext(context)  # type: ignore[arg-type]


def test_feed_forward_gates_by_gelu(generator: torch.Generator) -> None:
    layer = GatedFeedForward(4)
    tokens = torch.randn(2, 3, 4, generator=generator)
    values, gate = layer.expand(tokens)[..., :16], layer.expand(tokens)[..., 16:]
    gaussian = 0.5 * (1 + torch.erf(gate / 2**0.5))
    torch.testing.assert_close(layer(tokens), layer.contract(values * gate * gaussian))


def test_tokens_and_volume_are_inverses(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 5, 6, generator=generator)
    assert torch.equal(to_volume(to_tokens(x), like=x), x)
    assert torch.equal(to_tokens(x)[1, 4 * 6 + 5], x[1, :, 0, 4, 5])


def test_spatial_transformer_starts_as_the_identity(generator: torch.Generator) -> None:
    layer = SpatialTransformer(
        8, n_heads=2, head_channels=4, context_dim=3, n_layers=2, n_groups=2, norm_eps=1e-6, spatial_dims=3
    )
    x = torch.randn(1, 8, 2, 3, 4, generator=generator)
    assert torch.equal(layer(x, torch.randn(1, 5, 3, generator=generator)), x)
    with pytest.raises(ValueError, match="pass context"):
        layer(x)


def test_spatial_attention_commutes_with_flips(randomise: Randomise, generator: torch.Generator) -> None:
    layer = randomise(SpatialSelfAttention(8, n_heads=2, n_groups=2, norm_eps=1e-6))
    x = torch.randn(1, 8, 2, 3, 4, generator=generator)
    torch.testing.assert_close(layer(x.flip(3)), layer(x).flip(3), rtol=1e-5, atol=1e-5)


def test_residual_layer_runs_the_block_then_attention(
    randomise: Randomise, generator: torch.Generator
) -> None:
    block = randomise(ResidualBlock(4, 8, n_groups=2, norm_eps=1e-6, spatial_dims=3))
    attention = randomise(SpatialSelfAttention(8, n_heads=2, n_groups=2, norm_eps=1e-6))
    x = torch.randn(1, 4, 2, 3, 4, generator=generator)
    assert torch.equal(ResidualLayer(block, attention)(x), attention(block(x)))
    assert torch.equal(ResidualLayer(block)(x), block(x))
