from __future__ import annotations

import math

import pytest
import torch

from medldm.networks.time_embedding import TimeEmbedding, sinusoidal_embedding


def test_embedding_is_cosines_then_sines_of_falling_frequencies() -> None:
    embedding = sinusoidal_embedding(torch.tensor([0, 7]), 8)
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    expected = [math.cos(7 * f) for f in frequencies] + [math.sin(7 * f) for f in frequencies]
    torch.testing.assert_close(embedding[1], torch.tensor(expected), rtol=0, atol=1e-6)
    assert embedding[0].tolist() == [1.0] * 4 + [0.0] * 4


def test_times_need_not_be_whole() -> None:
    whole, between = sinusoidal_embedding(torch.tensor([2.0, 2.5]), 8)
    assert torch.equal(whole, sinusoidal_embedding(torch.tensor([2]), 8)[0])
    assert not torch.allclose(whole, between)


@pytest.mark.parametrize("dim", [1, 5])
def test_odd_width_ends_with_zero(dim: int) -> None:
    embedding = sinusoidal_embedding(torch.tensor([3, 4]), dim)
    assert embedding.shape == (2, dim)
    assert embedding[:, -1].tolist() == [0.0, 0.0]


def test_layers_make_it_four_times_as_wide() -> None:
    layer = TimeEmbedding(6)
    assert layer(torch.tensor([1, 2, 3]), dtype=torch.float32).shape == (3, layer.out_dim) == (3, 24)
