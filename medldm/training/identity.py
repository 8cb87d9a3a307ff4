"""The identity of a training: all that its next batch depends on, as plain values that can be compared.

A part is described by everything that it holds, so that a new field of a configuration, a new argument of a
transform or a new key of a case counts without being listed anywhere. What may differ is listed, with its
reason, in `MAY_CHANGE`.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, MapTransform
from torch import Tensor, nn

from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.data.split_record import CONTENT
from medldm.files import hash_array, hash_file
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.runtime.distributed import require_close, require_same, world_size
from medldm.training.precision import choose_precision
from medldm.training.volumes import ConditionValuesd, raw_condition
from medldm.transforms import LoadVolumed
from medldm.version import __version__

MAY_CHANGE = {
    "n_epochs": "a training can be made longer or shorter; the log says so",
    "checkpointing": "trades time for memory, with the same result",
    "autoencoder_path": "a file can be moved; its weights count",
    "perceptual_weights": "a file can be moved; its weights count",
    "output_dir": "a training can be moved",
    "num_workers": "changes nothing but the speed",
    "val_interval": "a validation changes no batch",
    "resume": "says how to go on",
    "save_minutes": "changes nothing but what a kill costs",
    "save_batches": "changes nothing but what a kill costs",
    "R": "the generator of a random transform, which is seeded for each case",
}
"""Fields and attributes that a training can be continued with another value of, and why."""

NOT_CONTENT = ("id", "subject", CONTENT)
"""Keys of a case that say which it is, not what it holds."""

_DIGITS = 16
_DEEPEST = 12
_PROBED = 16
_LONGEST_PATH = 4096


class TrainingIdentity:
    """Describe a training when it begins.

    Args:
        device: of the training, which says what precision "auto" stands for.
        config: of the training; its fields are described by their own names.
        run: the same.
        frozen: modules whose weights take part and are not trained, by name.
        cases: data sets by name.
        parts: all else, by name.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        config: Any,
        run: Any,
        frozen: Mapping[str, nn.Module],
        cases: Mapping[str, Any],
        **parts: Any,
    ) -> None:
        self._device = device
        self._config, self._run = config, run
        self._frozen, self._cases, self._parts = dict(frozen), dict(cases), parts

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """Plain values by dotted name; lists of hashes for cases."""
        described = {
            **describe({**self._run.to_dict(), **self._config.to_dict()}),
            "precision": choose_precision(self._device, self._config.precision),
            **{name: describe(part) for name, part in self._parts.items()},
            **{f"{name} weights": _hash_frozen(module) for name, module in self._frozen.items()},
        }
        values = flatten(described)
        for name, dataset in self._cases.items():
            values[f"{name} cases"] = hash_cases(dataset)
            values |= flatten(describe(steps_of(dataset)), f"{name} transforms")
        return values

    def require_same(self, **networks: nn.Module) -> None:
        """Compare this training among processes, before its first batch.

        Args:
            networks: whose weights are trained, by name.

        Raises:
            DistributedError: in every process, naming what differs.
        """
        if world_size() == 1:
            return
        cases = {name for name in self.values if name.endswith(" cases")}
        weights = {name for name in self.values if name.endswith(" weights")}
        space = {name for name in self.values if name == "space" or name.startswith("space.")}
        kept = {**self._run.to_dict(), **self._config.to_dict()}
        of_machine = ("output_dir", "num_workers", "autoencoder_path", "perceptual_weights")
        groups = {
            "cases": cases,
            "weights": weights,
            "space": space,
            "settings": self.values.keys() - cases - weights - space,
        }
        stated: dict[str, Any] = {
            f"the {group}": {name: self.values[name] for name in sorted(names)}
            for group, names in groups.items()
        }
        may_change = [name for name in kept if name in MAY_CHANGE and name not in of_machine]
        stated["the length and how to save"] = [[name, describe(kept[name])] for name in may_change]
        stated["the versions of medldm and torch"] = [__version__, torch.__version__]
        for name, network in networks.items():
            shapes = {each: list(value.shape) for each, value in network.state_dict().items()}
            stated[f"the weights of the {name}"] = shapes
        require_same(stated)
        for name, network in networks.items():
            require_close(_probe(network), name=f"the weights of the {name}")

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all values."""
        return _hash(self.values)


def hash_cases(dataset: Any) -> list[str]:
    """Return a hash of what each case of a data set holds, in their order.

    Of a MONAI data set, the keys count that its transforms read. Of a data set that does not say what its
    cases are, no case is known and the list is empty.
    """
    if dataset is None:
        return []
    if hasattr(dataset, "case_hashes"):
        return list(dataset.case_hashes())
    if isinstance(dataset, MonaiDataset):
        return [hash_case(case, dataset.transform) for case in dataset.data]
    return []


def hash_case(case: Mapping[str, Any], transform: Any = None) -> str:
    """Return a hash of what a case holds, wherever its files lie.

    Args:
        case: of a cohort's list.
        transform: if its steps say which keys they read, the others do not count.
    """
    keys, conditions = _read_keys(transform)
    contents = case.get(CONTENT, {})
    found: dict[str, Any] = {}
    for key, value in case.items():
        if key not in NOT_CONTENT and (keys is None or key in keys):
            found[key] = contents[key] if key in contents else _content_of(value)
    for name in conditions:
        found[f"condition {name}"] = describe(raw_condition(case, name))
    if "label_map" in conditions and STRUCTURES_IN_MAP in case:
        found[STRUCTURES_IN_MAP] = describe(case[STRUCTURES_IN_MAP])
    return _hash(found)


def steps_of(dataset: Any) -> Any:
    """Return the transform that a data set's cases went through."""
    return getattr(dataset, "transform", None)


def describe(value: Any, *, depth: int = 0) -> Any:
    """Return a value as plain values: a configuration by its fields, any other object by its attributes.

    Paths, devices and generators do not count.
    """
    if depth > _DEEPEST:
        raise TypeError(f"a {type(value).__name__} is nested too deep to be described")
    inner = functools.partial(describe, depth=depth + 1)
    if value is None or isinstance(value, (bool, int, str)):
        return value.name if isinstance(value, enum.Enum) else value
    if isinstance(value, (float, np.generic)):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Tensor):
        return hash_weights({"": value})[:_DIGITS]
    if isinstance(value, np.ndarray):
        return hash_array(value)[:_DIGITS] if value.dtype != object else inner(value.tolist())
    if isinstance(value, (Path, torch.device, torch.Generator, np.random.RandomState, np.random.Generator)):
        return None
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items() if str(key) not in MAY_CHANGE}
    if isinstance(value, (list, tuple)):
        return [inner(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return _describe_object(value, inner)


def _describe_object(value: Any, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, functools.partial):
        return {"kind": inner(value.func), "arguments": inner([*value.args, value.keywords])}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    kind = {"kind": type(value).__qualname__}
    if isinstance(value, enum.Enum) or not hasattr(value, "__dict__"):
        return str(value)
    if hasattr(value, "to_dict"):
        return kind | inner(value.to_dict())
    if hasattr(value, "identity"):  # a text encoder
        return kind | {"identity": inner(value.identity)}
    public = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    if isinstance(value, nn.Module):
        public.pop("training", None)
    return kind | inner(public)


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping of dotted names to plain values."""
    if isinstance(value, Mapping):
        pairs: Any = value.items()
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        pairs = enumerate(value)
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for key, item in pairs:
        found |= flatten(item, f"{name}.{key}" if name else str(key))
    return found


def _read_keys(transform: Any) -> tuple[set[str] | None, Sequence[str]]:
    """Return the keys of a case that transforms read, None for all; and the conditions they take from it."""
    steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    loading = [step for step in steps if isinstance(step, LoadVolumed)]
    mapping = [step for step in steps if isinstance(step, MapTransform)]
    keys = {str(key) for step in loading or mapping for key in step.keys}
    conditions = [name for step in steps if isinstance(step, ConditionValuesd) for name in step.config.names]
    return keys or None, conditions if keys else ()


def _content_of(value: Any) -> Any:
    """Return the hash of a file's bytes where a value names one, or several; else the value described."""
    if isinstance(value, (list, tuple)):
        return [_content_of(item) for item in value]
    is_text = isinstance(value, (str, Path)) and len(str(value)) < _LONGEST_PATH
    return hash_file(value) if is_text and Path(value).is_file() else describe(value)


def _probe(network: nn.Module) -> Tensor:
    """Return the first values of each weight; other kinds of CPU may draw them with other last bits."""
    found = [value.detach().flatten()[:_PROBED].float().cpu() for value in network.state_dict().values()]
    return torch.cat(found)


def _hash_frozen(module: nn.Module) -> str:
    return hash_weights(module.state_dict())[:_DIGITS]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]
