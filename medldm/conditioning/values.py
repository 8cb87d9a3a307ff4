"""From what a user or a table says of a case to the tensors of its conditions, without batch axis."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from medldm.conditioning.config import SPATIAL_TYPES, ConditioningConfig
from medldm.errors import ConfigError


class EncodesText(Protocol):
    """What turns texts into token embeddings; `TextEncoder` is one."""

    def encode(self, texts: list[str]) -> Tensor:
        """Return (B, N, D) float32."""
        ...


def condition_value(
    config: ConditioningConfig, name: str, raw: Any, *, text_encoder: EncodesText | None = None
) -> Tensor:
    """Turn the value of a class, a scalar or a text into a tensor.

    Args:
        config: the conditions of the model.
        name: of a condition that is not spatial.
        raw: a class number, a category's name, a number, a text, or the text's embeddings (N, D).
        text_encoder: for texts.

    Returns:
        () int64 for classes, () float32 for scalars, (N, D) float32 for texts.

    Raises:
        ConfigError: if the value is none the model knows, or a text comes without an encoder.
    """
    if name == "text":
        return _text_value(raw, text_encoder)
    if name in config.classes:
        categories = config.classes[name]
        if str(raw) not in categories:
            raise ConfigError(f"{name} has an unknown category: choose from {list(categories)}")
        return torch.tensor(categories.index(str(raw)))
    try:
        number = float(raw)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is no number: give one") from None
    if name in config.scalars:
        return torch.tensor(number)
    if not number.is_integer():
        raise ConfigError(f"{name} is {number:g}: a class number is whole")
    return torch.tensor(int(number))


def blank_value(config: ConditioningConfig, name: str) -> Tensor:
    """Return a value of the right shape for a case without the condition; its null will stand in for it."""
    if name in SPATIAL_TYPES:
        raise ValueError(f"{name!r} has no blank value without a grid")
    if name == "text":
        return torch.zeros(config.text_tokens, config.text_embed_dim)
    if name in config.scalars:
        return torch.tensor(config.scalars[name][0])
    return torch.tensor(0)


def _text_value(raw: Any, text_encoder: EncodesText | None) -> Tensor:
    if isinstance(raw, Tensor):
        return raw.float()
    if not isinstance(raw, str) or not raw.strip():
        raise ConfigError("text is empty or no text: leave it out where there is none")
    if text_encoder is None:
        raise ConfigError("a text needs the encoder of the training: give its folder as text_encoder")
    return text_encoder.encode([raw])[0]
