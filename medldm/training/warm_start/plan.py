"""What a training takes from the checkpoint that it starts from, and what becomes of the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.lineage import begin_with, describe_lineage
from medldm.latent_diffusion.model_files import Describe
from medldm.training.warm_start.checkpoint import StartCheckpoint
from medldm.training.warm_start.matching import Sources, fits_rows, take_rows

logger = logging.getLogger(__name__)

_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class StartPlan:
    """Weights that a network begins with.

    Args:
        checkpoint: that they come from.
        part: of a model that is trained, "autoencoder" or "denoiser".
        values: name to tensor of the network; None where the training goes on from a state.
        lines: what was kept, adapted, begun anew and left out, for the log.
    """

    checkpoint: StartCheckpoint
    part: str
    values: Mapping[str, Tensor] | None = field(repr=False)
    lines: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What the training's result depends on."""
        return {"file_sha256": self.checkpoint.file_sha256, "names": dict(self.checkpoint.names)}

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """The checkpoints that the trained part comes from, newest first."""
        return begin_with(self.checkpoint.file_sha256, self.checkpoint.card, part=self.part)

    def apply(self, network: nn.Module) -> None:
        """Set a network's weights; those of a training that goes on come with its state."""
        if self.values is None:
            return
        for line in self.lines:
            logger.info("start_from: %s", line)
        network.load_state_dict({**network.state_dict(), **self.values})

    def describe(self, describe: Describe) -> Describe:
        """Return a function that adds the lineage to what a checkpoint's card says."""

        def described() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
            weights, card = describe()
            return weights, {**card, **describe_lineage({self.part: self.ancestors})}

        return described


class Transfer:
    """Take weights one by one, and remember what became of each.

    Args:
        own: weights of the network as it begins without a checkpoint.
        old: weights of the checkpoint.
    """

    def __init__(self, own: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> None:
        self.own, self.old = own, old
        self.values: dict[str, Tensor] = {}
        self.adapted: list[str] = []
        self.fresh: list[str] = []
        self.notes: list[str] = []
        self._used: set[str] = set()

    def keep(self, name: str, source: str | None = None) -> None:
        """Take a weight as it is; one that is not there, or of another shape, begins anew."""
        source = source or name
        old = self.old.get(source)
        if old is None or old.shape != self.own[name].shape:
            self.begin_anew(name)
            return
        self._used.add(source)
        self.values[name] = old.to(self.own[name].dtype)

    def keep_rows(self, name: str, sources: Sources, *, dim: int = 0, source: str | None = None) -> None:
        """Take the rows of a weight from those of the old one; it begins anew where nothing else fits."""
        source = source or name
        old = self.old.get(source)
        if old is None or not fits_rows(self.own[name], old, dim=dim):
            self.begin_anew(name)
            return
        self._used.add(source)
        self.values[name] = take_rows(self.own[name], old, sources, dim=dim)
        if list(sources) != list(range(old.shape[dim])):
            self.adapted.append(name)

    def put(self, name: str, value: Tensor, *, source: str, is_adapted: bool) -> None:
        """Set a weight that was put together from an old one."""
        self._used.add(source)
        self.values[name] = value
        if is_adapted:
            self.adapted.append(name)

    def begin_anew(self, name: str) -> None:
        """Leave a weight as the network begins without a checkpoint."""
        self.fresh.append(name)

    def keep_rest(self) -> None:
        """Take every weight that was not spoken of by its name."""
        for name in self.own:
            if name not in self.values and name not in self.fresh:
                self.keep(name)

    def require_finite(self, path: str) -> None:
        """Refuse a checkpoint of a training that went wrong.

        Raises:
            CheckpointError: naming the first weight with a value that is not finite.
        """
        for name, value in self.values.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise CheckpointError(
                    f"{path} has weights that are not finite, such as {name}: give another file"
                )

    def lines(self) -> list[str]:
        """Say what became of all weights."""
        left = sorted(set(self.old) - self._used)
        kept = [name for name in self.values if name not in self.adapted]
        n_values = sum(self.values[name].numel() for name in kept)
        found = [f"{len(kept)} tensors kept ({n_values} weights)"]
        found += [f"{len(self.adapted)} adapted ({_name(self.adapted)})"] if self.adapted else []
        found += [f"{len(self.fresh)} begin anew ({_name(self.fresh)})"] if self.fresh else []
        found += [f"{len(left)} of the checkpoint left out ({_name(left)})"] if left else []
        return ["; ".join(found), *self.notes]


def require_same(
    here: Mapping[str, Any], there: Mapping[str, Any], *, what: str, may_differ: Sequence[str]
) -> None:
    """Refuse a network of another architecture than that of the checkpoint: its weights would mean nothing.

    Args:
        here: configuration of the network, as a dictionary.
        there: that in the card.
        what: the network, for the error.
        may_differ: fields that weights can be adapted to, or that they do not depend on.

    Raises:
        ConfigError: naming every field that differs, with both values.
    """
    names = [name for name in {**here, **there} if name not in may_differ]
    differing = [
        f"{name} is {_word(here.get(name))} here and {_word(there.get(name))} in the checkpoint"
        for name in names
        if here.get(name) != there.get(name)
    ]
    if differing:
        raise ConfigError(
            f"start_from holds {what} of another architecture ({'; '.join(differing)}): set these knobs to "
            "what the checkpoint has, or train from nothing with start_from: null"
        )


def _word(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _name(names: Sequence[str]) -> str:
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
