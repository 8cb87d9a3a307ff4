"""Values of a case or a user as tensors."""

from __future__ import annotations

import pytest
import torch

from medldm import ConditioningConfig
from medldm.conditioning.values import blank_value, condition_value

CONFIG = ConditioningConfig(
    conditioning_type=["class", "scalars", "text"],
    num_classes=3,
    classes={"sex": ["F", "M"]},
    scalars={"age": [20, 80]},
    text_embed_dim=4,
    text_tokens=2,
)


class Spelling:
    """A text encoder that counts letters."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[[float(len(text))] * 4] for text in texts])


def test_values_become_tensors_of_their_kind() -> None:
    assert condition_value(CONFIG, "class", 2).tolist() == 2
    assert condition_value(CONFIG, "sex", "M").dtype == torch.int64
    assert condition_value(CONFIG, "sex", "M").tolist() == 1
    assert condition_value(CONFIG, "age", "61.5").tolist() == 61.5
    assert condition_value(CONFIG, "text", "brain", text_encoder=Spelling()).tolist() == [[5.0] * 4]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("sex", "X", r"unknown category: choose from \['F', 'M'\]"),
        ("age", "old", "age is no number"),
        ("class", 1.5, "a class number is whole"),
        ("text", "  ", "text is empty"),
        ("text", "brain", "needs the encoder of the training"),
    ],
)
def test_wrong_values_are_named(name, raw, message) -> None:
    with pytest.raises(ValueError, match=message):
        condition_value(CONFIG, name, raw)


@pytest.mark.parametrize("name", CONFIG.names)
def test_blanks_have_the_shape_of_values(name) -> None:
    raw = {"class": 1, "sex": "F", "age": 30.0, "text": torch.zeros(2, 4)}[name]
    assert blank_value(CONFIG, name).shape == condition_value(CONFIG, name, raw).shape
