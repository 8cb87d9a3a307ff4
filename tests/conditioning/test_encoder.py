"""ConditionEncoder: nulls, dropout, combination, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from medldm import ConditioningConfig, Conditions
from medldm.conditioning import ConditionEncoder

GRID = (4, 5, 3)


@pytest.fixture
def encoder() -> ConditionEncoder:
    torch.manual_seed(0)
    config = ConditioningConfig(
        conditioning_type=["class", "text", "label_map"],
        num_classes=3,
        text_embed_dim=6,
        text_tokens=9,
        context_dim=8,
        structures={1: "a", 5: "b"},
    )
    return ConditionEncoder(config, downsampling=(4, 4, 4))


@pytest.fixture
def conditions() -> Conditions:
    torch.manual_seed(1)
    return Conditions(
        {
            "class": torch.tensor([0, 2]),
            "text": torch.randn(2, 7, 6),
            "label_map": torch.randint(0, 3, (2, 1, 16, 18, 11)),
        }
    )


def encode(encoder: ConditionEncoder, conditions: Conditions | None, **options):
    return encoder(conditions, batch_size=2, latent_size=GRID, **options)


def test_tokens_of_all_conditions_are_joined_and_odd_maps_round_up(encoder, conditions) -> None:
    encoded = encode(encoder, conditions)
    assert encoded.tokens.shape == (2, 1 + 9, 8)
    assert encoded.spatial.shape == (2, 8, *GRID)


@pytest.mark.parametrize("name", ["class", "text", "label_map"])
def test_a_dropped_condition_equals_its_learned_null_and_leaves_the_others(encoder, conditions, name) -> None:
    kept, dropped = (
        encode(encoder, conditions),
        encode(encoder, conditions, drop={name: torch.tensor([True, False])}),
    )
    rows = {"class": slice(0, 1), "text": slice(1, 10)}
    if name == "label_map":
        assert torch.equal(dropped.spatial[0], encoder[name].null_channels[0].expand(8, *GRID))
        assert torch.equal(dropped.spatial[1], kept.spatial[1])
        assert torch.equal(dropped.tokens, kept.tokens)
    else:
        assert torch.equal(
            dropped.tokens[0, rows[name]],
            encoder[name].null_token[0].expand_as(dropped.tokens[0, rows[name]]),
        )
        assert torch.equal(dropped.tokens[1], kept.tokens[1])
        assert torch.equal(dropped.spatial, kept.spatial)


def test_the_null_is_learned_and_not_zero(encoder, conditions) -> None:
    for name in encoder.names:
        conditioner = encoder[name]
        null = conditioner.null_channels if name == "label_map" else conditioner.null_token
        assert null.requires_grad
        assert null.abs().max() > 0
    encode(encoder, None).tokens.sum().backward()
    assert encoder["class"].null_token.grad is not None


@pytest.mark.parametrize("name", ["class", "text", "label_map"])
def test_absence_is_the_same_whether_others_of_the_batch_have_the_condition(
    encoder, conditions, name
) -> None:
    """Dropped in a row, absent in all rows, or not given at all: one null."""
    others = {other: value for other, value in conditions.values.items() if other != name}
    dropped = encode(encoder, conditions, drop={name: torch.tensor([True, False])})
    left_out = encode(encoder, Conditions(others))
    assert torch.equal(dropped.tokens[0], left_out.tokens[0])
    assert torch.equal(dropped.spatial[0], left_out.spatial[0])


def test_dropout_draws_each_condition_at_its_own_rate() -> None:
    config = ConditioningConfig(
        conditioning_type=["class", "text"], num_classes=2, conditioning_dropout={"class": 0.1, "text": 0.4}
    )
    n = 40_000
    draws = ConditionEncoder(config, downsampling=(4, 4, 4)).draw_dropout(
        n, generator=torch.Generator().manual_seed(0)
    )
    for name, rate in (("class", 0.1), ("text", 0.4)):
        assert abs(draws[name].float().mean().item() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    assert abs((draws["class"] & draws["text"]).float().mean().item() - 0.04) < 4 * (0.04 * 0.96 / n) ** 0.5


def test_samples_lose_all_or_keep_all_conditions_at_their_rates() -> None:
    """Of two conditions at dropout 0.5, 0.1 for all and 0.2 for none: 0.7 / 4 for each of the four sets."""
    config = ConditioningConfig(
        conditioning_type=["class", "text"],
        num_classes=2,
        conditioning_dropout=0.5,
        drop_all_probability=0.1,
        keep_all_probability=0.2,
    )
    n = 40_000
    draws = ConditionEncoder(config, downsampling=(4, 4, 4)).draw_dropout(
        n, generator=torch.Generator().manual_seed(0)
    )
    a, b = draws["class"], draws["text"]
    for found, rate in ((a & b, 0.275), (~a & ~b, 0.375), (a & ~b, 0.175), (~a & b, 0.175)):
        assert abs(found.float().mean().item() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5


def test_one_token_counts_as_much_as_a_text_of_many_in_the_summary(encoder, conditions) -> None:
    encoded = encode(encoder, conditions)
    expected = encoded.tokens[:, 0] + encoded.tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(encoded.pooled, expected)


def test_every_voxel_of_a_label_map_reaches_the_latent_grid(encoder) -> None:
    """A structure one voxel thin changes the encoding wherever it lies."""
    empty = torch.zeros(1, 1, 16, 16, 16, dtype=torch.int64)
    base = encoder["label_map"].encode(empty).spatial
    for place in [(0, 0, 0), (5, 9, 2), (15, 15, 15), (7, 8, 3)]:
        thin = empty.clone()
        thin[(0, 0, *place)] = 2
        assert (encoder["label_map"].encode(thin).spatial - base).abs().max() > 1e-6


def test_a_condition_that_was_not_trained_is_refused_by_name(encoder) -> None:
    with pytest.raises(ValueError, match=r"trained without the conditions \['age'\]"):
        encoder.check(Conditions({"age": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("class", torch.tensor([3]), "class has values from 3 to 3: this model knows 0 to 2"),
        ("label_map", torch.full((1, 1, 4, 4, 4), 3), "label_map has values from 3 to 3"),
    ],
)
def test_values_out_of_range_are_refused(encoder, name, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.check(Conditions({name: value}))


def test_a_map_on_another_grid_is_refused(encoder) -> None:
    with pytest.raises(ValueError, match="comes to the grid"):
        encoder(Conditions({"label_map": torch.zeros(1, 1, 8, 8, 8)}), batch_size=1, latent_size=GRID)


def test_text_of_another_width_is_refused(encoder) -> None:
    with pytest.raises(ValueError, match=r"\(B, N, 6\) with N from 1 to 9 is needed"):
        encode(encoder, Conditions({"text": torch.zeros(2, 7, 5)}))
