"""What inference derives from weights and keeps: made anew when a weight changes, let go when it trains."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_CACHE: Any = weakref.WeakKeyDictionary()
"""By layer: a reference to its weight, what the entry depends on, and what was derived."""


def may_cache(layer: nn.Module) -> bool:
    """Whether what is derived from a weight may be kept: not while it is trained or computed itself.

    A tensor of inference mode does not count its changes.
    """
    weight = layer._parameters.get("weight")
    return isinstance(weight, nn.Parameter) and not layer.training and not weight.is_inference()


def cached_weight(layer: nn.Module, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
    """Return what `make` derives from the weight of a layer, made anew when weight or key have changed.

    Changes that PyTorch does not count, such as those of `weight.data`, are seen at the next `train()` or
    `eval()`, which let go what was kept.
    """
    weight: Any = layer.weight
    key = (weight.data_ptr(), weight._version, *key)
    cached = _CACHE.get(layer)
    if cached is None or cached[0]() is not weight or cached[1] != key:
        cached = _CACHE[layer] = (weakref.ref(weight), key, make())
    return cached[2]


def clear_cached_weight(layer: nn.Module) -> None:
    """Let go what inference has kept for a layer."""
    _CACHE.pop(layer, None)


def clear_cached_weights(network: nn.Module) -> None:
    """Let go what inference has kept for the layers of a network, a copy of many of its weights."""
    for layer in network.modules():
        clear_cached_weight(layer)
