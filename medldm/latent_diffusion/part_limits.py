"""Stop the building of a network that has more parts than the file it is built for has weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as registry

_SPARE_TENSORS, _SPARE_MODULES = 64, 1000
_MODULES_PER_TENSOR = 16


class TooManyPartsError(ValueError):
    """Report a network that is larger than the weights it is to have."""


@contextmanager
def at_most_parts(n_tensors: int) -> Iterator[None]:
    """Refuse, inside the block, networks of far more parameters and modules than a file holds tensors.

    A description of a few bytes can ask for ten million blocks; each is small, even without memory for its
    weights, and all together fill it. So they are counted as they are made. A network may share weights, or
    replace some while it is built, and has modules without weights: hence twice as many tensors, and 16
    modules for each.

    Args:
        n_tensors: in the file.

    Raises:
        TooManyPartsError: from inside the block, at the first part too many.
    """
    most_tensors = 2 * n_tensors + _SPARE_TENSORS
    most_modules = _MODULES_PER_TENSOR * n_tensors + _SPARE_MODULES
    counts = {"tensors": 0, "modules": 0}

    def count(kind: str, most: int) -> None:
        counts[kind] += 1
        if counts[kind] > most:
            raise TooManyPartsError(f"a network of more than {most} {kind} for a file of {n_tensors} tensors")

    def count_tensor(owner: nn.Module, name: str, tensor: Any) -> None:
        count("tensors", most_tensors)

    def count_module(owner: nn.Module, name: str, part: Any) -> None:
        count("modules", most_modules)

    handles = [
        registry.register_module_parameter_registration_hook(count_tensor),
        registry.register_module_buffer_registration_hook(count_tensor),
        registry.register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
