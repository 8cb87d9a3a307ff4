from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.networks.quantiser import (
    VectorQuantiser,
    compute_perplexity,
    from_vectors,
    nearest_codes,
    to_vectors,
)


def make_quantiser(**changes: Any) -> VectorQuantiser:
    torch.manual_seed(5)
    settings = {
        "commitment_weight": 0.25,
        "learning": "ema",
        "decay": 0.9,
        "restart_after": None,
        "is_initialised": True,
    }
    return VectorQuantiser(8, 3, **settings | changes)


def make_latents(generator: torch.Generator, *, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 2, 3, 4, generator=generator)


def count_equal_vectors(codes: Tensor, latents: Tensor) -> Tensor:
    """For each code, how many vectors of the latents are equal to it to the bit."""
    return (codes.detach()[:, None] == to_vectors(latents)[None]).all(-1).sum(1)


@pytest.mark.parametrize("max_distances", [1, 50, 2**22])
def test_nearest_code_is_that_of_brute_force(
    max_distances: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr("medldm.networks.quantiser.MAX_DISTANCES", max_distances)
    vectors, codes = torch.randn(100, 5, generator=generator), torch.randn(17, 5, generator=generator)
    distances = (vectors[:, None].double() - codes[None].double()).square().sum(-1)
    assert torch.equal(nearest_codes(vectors, codes), distances.argmin(1))


def test_vectors_and_latents_are_inverses(generator: torch.Generator) -> None:
    latents = make_latents(generator)
    vectors = to_vectors(latents)
    assert torch.equal(from_vectors(vectors, like=latents), latents)
    assert torch.equal(vectors[24 + 4 + 3], latents[1, :, 0, 1, 3])


def test_latents_are_the_codes_of_the_indices_to_the_bit(generator: torch.Generator) -> None:
    quantiser = make_quantiser()
    quantised = quantiser(make_latents(generator))
    assert torch.equal(quantised.latents, quantiser.embed(quantised.indices))
    assert quantised.indices.shape == (2, 2, 3, 4)


def test_gradient_passes_straight_through_to_the_bit(generator: torch.Generator) -> None:
    quantiser = make_quantiser(commitment_weight=0.0)
    latents = make_latents(generator).requires_grad_()
    gradient = torch.randn(latents.shape, generator=generator)
    quantiser(latents).latents.backward(gradient)
    assert latents.grad is not None
    assert torch.equal(latents.grad, gradient)


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_gradient_of_the_loss(learning: str, generator: torch.Generator) -> None:
    beta = 0.4
    quantiser = make_quantiser(commitment_weight=beta, learning=learning)
    latents = make_latents(generator).requires_grad_()
    quantised = quantiser(latents)
    quantised.loss.backward()
    difference = latents.detach() - quantised.latents.detach()
    torch.testing.assert_close(latents.grad, 2 * beta * difference / latents.numel(), rtol=1e-5, atol=1e-8)
    expected_loss = difference.square().mean() * (beta if learning == "ema" else 1 + beta)
    torch.testing.assert_close(quantised.loss.detach(), expected_loss)
    if learning == "gradient":
        expected = torch.zeros(8, 3)
        expected.index_add_(0, quantised.indices.flatten(), -2 * to_vectors(difference) / latents.numel())
        torch.testing.assert_close(quantiser.codebook.grad, expected, rtol=1e-5, atol=1e-8)


def test_three_moving_average_updates_by_hand(generator: torch.Generator) -> None:
    quantiser = make_quantiser()
    codes = quantiser.codebook.double()
    counts, sums = [1.0] * 8, [code.clone() for code in codes]
    for _ in range(3):
        latents = make_latents(generator)
        indices = quantiser(latents).indices
        vectors = latents.double().permute(0, 2, 3, 4, 1).reshape(-1, 3)
        for code in range(8):
            own = vectors[indices.flatten() == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(own)
            sums[code] = 0.9 * sums[code] + 0.1 * own.sum(0)
        quantiser.update(latents, indices)
        expected = torch.stack([total / count for total, count in zip(sums, counts, strict=True)])
        torch.testing.assert_close(quantiser.codebook.double(), expected, rtol=0, atol=1e-6)


def test_unused_codes_stay_as_they_are_to_the_bit(generator: torch.Generator) -> None:
    quantiser = make_quantiser()
    before = quantiser.codebook.clone()
    latents = before[2].view(1, 3, 1, 1, 1) + 0.001 * torch.randn(1, 3, 4, 4, 4, generator=generator)
    for _ in range(500):
        quantiser.update(latents, quantiser(latents).indices)
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(quantiser.codebook[others], before[others])
    torch.testing.assert_close(quantiser.codebook[2], latents.mean((0, 2, 3, 4)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_calling_changes_no_state(mode: bool, learning: str, generator: torch.Generator) -> None:
    quantiser = make_quantiser(learning=learning, is_initialised=False, restart_after=1).train(mode)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    quantiser(make_latents(generator))
    for name, value in quantiser.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_first_codes_are_vectors_of_the_batch_all_different(generator: torch.Generator) -> None:
    quantiser = make_quantiser(is_initialised=False)
    latents = make_latents(generator)
    quantiser.initialise(latents, generator=generator)
    assert count_equal_vectors(quantiser.codebook, latents).tolist() == [1] * 8
    assert len(quantiser.codebook.unique(dim=0)) == 8
    assert bool(quantiser.is_initialised)


def test_codes_are_taken_from_data_only_once_even_after_loading(generator: torch.Generator) -> None:
    quantiser = make_quantiser(is_initialised=False)
    quantiser.initialise(make_latents(generator), generator=generator)
    restored = make_quantiser(is_initialised=False)
    restored.load_state_dict(quantiser.state_dict())
    restored.initialise(make_latents(generator), generator=generator)
    assert torch.equal(restored.codebook, quantiser.codebook)


def test_a_batch_smaller_than_the_codebook_is_enough(generator: torch.Generator) -> None:
    quantiser = make_quantiser(is_initialised=False)
    latents = torch.randn(1, 3, 1, 1, 2, generator=generator)
    quantiser.initialise(latents, generator=generator)
    assert len(quantiser.codebook.unique(dim=0)) == 2


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_a_code_without_use_is_replaced_after_its_time(learning: str, generator: torch.Generator) -> None:
    quantiser = make_quantiser(learning=learning, restart_after=3)
    with torch.no_grad():
        quantiser.codebook[4] = 100.0
    latents = make_latents(generator)
    for step in range(3):
        assert float(quantiser.codebook[4].detach()[0]) == 100.0, step
        quantiser.update(latents, quantiser(latents).indices, generator=generator)
    assert count_equal_vectors(quantiser.codebook[4:5], latents).tolist() == [1]
    assert quantiser.steps_unused[4] == 0
    used = torch.unique(quantiser(latents).indices)
    assert 4 in used


def test_a_replaced_code_goes_on_from_its_vector(generator: torch.Generator) -> None:
    quantiser = make_quantiser(restart_after=4)
    with torch.no_grad():
        quantiser.codebook[4] = 100.0
    latents = make_latents(generator)
    for _ in range(4):
        quantiser.update(latents, quantiser(latents).indices, generator=generator)
    start = quantiser.codebook[4].clone()
    quantiser.update((start + 1).view(1, 3, 1, 1, 1), torch.full((1, 1, 1, 1), 4))
    torch.testing.assert_close(quantiser.codebook[4], 0.9 * start + 0.1 * (start + 1), rtol=0, atol=1e-6)


def test_a_code_used_again_after_very_long_follows_its_vectors(generator: torch.Generator) -> None:
    quantiser = make_quantiser()
    latents = quantiser.codebook[2].view(1, 3, 1, 1, 1).clone()
    for _ in range(1200):
        quantiser.update(latents, torch.full((1, 1, 1, 1), 2))
    vector = torch.randn(1, 3, 1, 1, 1, generator=generator)
    quantiser.update(vector, torch.full((1, 1, 1, 1), 5))
    torch.testing.assert_close(quantiser.codebook[5], vector.flatten(), rtol=0, atol=1e-5)
    assert torch.isfinite(quantiser.codebook).all()


def test_codes_in_use_are_never_replaced(generator: torch.Generator) -> None:
    quantiser = make_quantiser(learning="gradient", restart_after=1)
    before = quantiser.codebook.detach().clone()
    latents = make_latents(generator)
    indices = quantiser(latents).indices
    quantiser.update(latents, indices, generator=generator)
    used = indices.unique()
    assert torch.equal(quantiser.codebook.detach()[used], before[used])


def test_choices_follow_the_generator(generator: torch.Generator) -> None:
    latents = make_latents(generator)
    books = []
    for _ in range(2):
        quantiser = make_quantiser(is_initialised=False)
        quantiser.initialise(latents, generator=torch.Generator().manual_seed(2))
        books.append(quantiser.codebook)
    assert torch.equal(*books)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([4, 4, 4, 4], 4.0), ([9, 0, 0, 0], 1.0), ([2, 2, 0, 0], 2.0), ([1, 3], 1.7547653506033232)],
)
def test_perplexity_is_the_exponential_of_the_entropy(counts: list[int], expected: float) -> None:
    assert compute_perplexity(torch.tensor(counts, dtype=torch.float64)).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_autocast_computes_in_float32(generator: torch.Generator) -> None:
    quantiser = make_quantiser()
    latents = make_latents(generator)
    exact = quantiser(latents)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantiser(latents)
    assert torch.equal(found.latents, exact.latents)
    assert torch.equal(found.loss, exact.loss)
    assert quantiser(latents.bfloat16()).loss.dtype == torch.float32
