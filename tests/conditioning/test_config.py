"""ConditioningConfig: what it accepts and how it refuses."""

from __future__ import annotations

import pytest

from medldm import ConditioningConfig


def test_example_of_the_readme_is_accepted() -> None:
    config = ConditioningConfig(
        conditioning_type=["text", "class"], text_embed_dim=512, num_classes=1000, conditioning_dropout=0.1
    )
    assert config.conditioning_type == ("text", "class")
    assert config.has_tokens
    assert config.spatial_channels == 0


def test_round_trip_through_json_keeps_integer_structures() -> None:
    import json

    config = ConditioningConfig(conditioning_type=["label_map"], structures={1: "a", 7: "b"})
    assert ConditioningConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning_type": ["colour"]}, "unknown conditioning_type.*colour.*choose from"),
        ({"conditioning_type": ["class", "class"], "num_classes": 2}, "names a condition twice"),
        ({"conditioning_type": ["class"]}, "num_classes is None"),
        ({"conditioning_type": ["label_map"]}, "structures is empty"),
        ({"conditioning_type": ["label_map"], "structures": {0: "air"}}, "0 is background"),
        ({"conditioning_type": ["text"], "conditioning_dropout": 1.0}, r"probability in \[0, 1\)"),
        ({"conditioning_type": ["text"], "conditioning_dropout": {"class": 0.1}}, "not among the conditions"),
        ({"context_dim": 0}, "context_dim is 0"),
    ],
)
def test_bad_values_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditioningConfig(**options)


@pytest.mark.parametrize(("drop", "keep"), [(-0.1, 0.0), (0.6, 0.5)])
def test_what_happens_to_all_conditions_together_has_probabilities(drop: float, keep: float) -> None:
    with pytest.raises(ValueError, match="whose sum is at most 1"):
        ConditioningConfig(drop_all_probability=drop, keep_all_probability=keep)


def test_dropout_may_differ_by_condition() -> None:
    config = ConditioningConfig(
        conditioning_type=["text", "class"], num_classes=2, conditioning_dropout={"text": 0.3, "class": 0.0}
    )
    assert (config.dropout_of("text"), config.dropout_of("class")) == (0.3, 0.0)


def test_columns_are_conditions_of_their_own() -> None:
    config = ConditioningConfig(
        conditioning_type=["scalars", "class", "label_map"],
        num_classes=2,
        classes={"sex": ["F", "M"]},
        scalars={"age": [20, 90], "weight": [40, 120]},
        structures={1: "a"},
        conditioning_dropout={"age": 0.5},
    )
    assert config.names == ("age", "weight", "class", "sex", "label_map")
    assert (config.n_categories("sex"), config.n_categories("class"), config.n_categories("age")) == (
        2,
        2,
        None,
    )
    assert config.dropout_of("age") == 0.5
    assert ConditioningConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning_type": ["scalars"]}, "scalars is empty"),
        ({"scalars": {"age": [3, 3]}}, "lowest and highest value are needed"),
        ({"scalars": {"text": [0, 3]}}, "a name of its own"),
        ({"classes": {"label": ["a"]}}, "a name of its own"),
        ({"classes": {"sex": ["F", "F"]}}, "listed once"),
        ({"classes": {"age": ["a"]}, "scalars": {"age": [0, 1]}}, "a name of its own"),
        ({"image_token_grid": -1}, "image_token_grid is -1"),
    ],
)
def test_bad_columns_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditioningConfig(**options)


def test_an_image_needs_cross_attention_only_for_its_tokens() -> None:
    assert not ConditioningConfig(conditioning_type=["image"]).has_tokens
    assert ConditioningConfig(conditioning_type=["image"], image_token_grid=2).has_tokens
    assert ConditioningConfig(conditioning_type=["image"], image_channels=5).spatial_channels == 5


@pytest.mark.parametrize(
    "names", ["class,text", "[class, text]", "['class','text']", ["class", "text"], ("class", "text")]
)
def test_names_are_read_as_a_command_line_gives_them(names) -> None:
    assert ConditioningConfig(conditioning_type=names, num_classes=2).conditioning_type == ("class", "text")
