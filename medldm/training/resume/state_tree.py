"""Turn nested training state into named tensors and plain JSON values, and back, without pickle.

Only None, bool, int, float, str, list, tuple, dict and Tensor can be kept; anything else is refused, so that
nothing is lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medldm.errors import CheckpointError


def flatten_state(state: Any, *, name: str = "") -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of nested state.

    Args:
        state: nested lists, tuples and dictionaries of plain values and tensors.
        name: prefix of the tensors' names.

    Returns:
        The tensors by their place, copied to the CPU; and the rest as JSON values, exact to the bit.

    Raises:
        TypeError: naming the place of a value that cannot be kept.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(state, name, tensors)


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        pairs = [
            [_flatten(key, f"{name}.key", tensors), _flatten(item, f"{name}.{key}", tensors)]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(
        f"the training state at {name!r} is a {type(value).__name__}, which cannot be saved: "
        "keep None, bool, int, float, str, list, tuple, dict or Tensor"
    )


def unflatten_state(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """Invert `flatten_state`.

    Raises:
        CheckpointError: if the values are not those that `flatten_state` gives.
    """
    if isinstance(plain, list):
        return [unflatten_state(tensors, item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) != 1:
        raise CheckpointError(f"a part of the training state has the keys {sorted(plain)}: it is damaged")
    ((kind, content),) = plain.items()
    if kind == "tensor" and content in tensors:
        return tensors[content]
    if kind == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if kind == "tuple" and isinstance(content, list):
        return tuple(unflatten_state(tensors, item) for item in content)
    if kind == "dict" and isinstance(content, list):
        return {unflatten_state(tensors, key): unflatten_state(tensors, item) for key, item in content}
    raise CheckpointError(f"a part of the training state is a {kind!r} of {content!r}: it is damaged")


def count_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return how many bytes the values of tensors take."""
    return sum(torch.numel(tensor) * tensor.element_size() for tensor in tensors.values())
