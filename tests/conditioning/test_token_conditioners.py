"""Class, scalar and text tokens."""

from __future__ import annotations

import pytest
import torch

from medldm.conditioning.token_conditioners import ClassConditioner, ScalarConditioner, TextConditioner


def test_a_class_looks_up_its_own_token() -> None:
    conditioner = ClassConditioner(3, context_dim=5)
    tokens = conditioner.encode(torch.tensor([2, 0])).tokens
    assert torch.equal(tokens[:, 0], conditioner.embedding.weight[[2, 0]])


def test_a_scalar_is_told_apart_finely_and_by_its_place_in_the_range() -> None:
    torch.manual_seed(0)
    conditioner = ScalarConditioner(20.0, 80.0, context_dim=16)
    shifted = ScalarConditioner(1020.0, 1080.0, context_dim=16)
    shifted.load_state_dict(conditioner.state_dict())
    ages = torch.linspace(20, 80, 61)
    tokens = conditioner.encode(ages).tokens[:, 0]
    assert torch.allclose(shifted.encode(ages + 1000).tokens[:, 0], tokens, atol=1e-4)
    distances = torch.cdist(tokens, tokens) + torch.eye(61) * 9
    assert distances.min() > 1e-3


def test_scalar_features_are_those_of_the_formula() -> None:
    conditioner = ScalarConditioner(0.0, 2.0, context_dim=4)
    seen = []
    conditioner.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    conditioner.encode(torch.tensor([1.5]))
    u = torch.tensor(0.5)
    angles = torch.pi / 2 * 2.0 ** torch.arange(3) * u
    assert torch.allclose(seen[0][0], torch.cat([u[None], angles.sin(), angles.cos()]), atol=1e-6)


def test_a_number_is_heard_beside_a_class() -> None:
    torch.manual_seed(0)
    of_scalar = ScalarConditioner(0.0, 2.0, context_dim=64).encode(torch.linspace(0, 2, 101)).tokens[:, 0]
    of_class = ClassConditioner(101, context_dim=64).encode(torch.arange(101)).tokens[:, 0]
    assert 0.5 < of_scalar.std(0).mean() / of_class.std(0).mean() < 2


def test_a_short_text_is_padded_by_a_learned_token() -> None:
    conditioner = TextConditioner(6, n_tokens=5, context_dim=4)
    tokens = conditioner.encode(torch.randn(2, 3, 6)).tokens
    assert tokens.shape == (2, 5, 4)
    assert torch.equal(tokens[:, 3:], conditioner.padding.expand(2, 2, -1))


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 3, 5), (2, 6), (2, 0, 6)])
def test_texts_that_do_not_fit_are_refused(shape) -> None:
    with pytest.raises(ValueError, match=r"\(B, N, 6\) with N from 1 to 5 is needed"):
        TextConditioner(6, n_tokens=5, context_dim=4).encode(torch.zeros(shape))
