"""The checkpoint that a training starts from: read once, and not again when the training goes on.

When its first batch begins, a training leaves a record beside its saved states: the card of the checkpoint
and the hash of its file. A training that goes on from a state takes these from the record, so that the
checkpoint may have been moved or deleted, or written over by the training itself, by then. Where another file
lies in its place, its hash tells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

from medldm.configs import read_switch
from medldm.errors import CheckpointError, ConfigError
from medldm.files import hash_file, require_writable, write_atomically
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.runtime.distributed import is_main_process
from medldm.runtime.json_files import read_json
from medldm.training.resume.state_files import StateError
from medldm.training.resume.state_folders import RECORD, StateFolders

logger = logging.getLogger(__name__)

KINDS = {"autoencoder": ("autoencoder", "latent_diffusion"), "diffusion": ("latent_diffusion",)}
"""Stage to the kinds of checkpoint that it can start from: a second stage's file holds its first one, too."""
WRITTEN = {
    stage: tuple(f"{name}{ending}.safetensors" for ending in ("", "_last", "_early"))
    for stage, name in (("autoencoder", "autoencoder"), ("diffusion", "latent_diffusion"))
}
"""Stage to the checkpoints that its training writes beside its states, and may write over."""


@dataclass(frozen=True, kw_only=True)
class StartCheckpoint:
    """A checkpoint to start from.

    Args:
        stage: "autoencoder" or "diffusion".
        path: as the user gave it; messages name it.
        file_sha256: of the file's bytes.
        card: of the file.
        weights: name to tensor; None where the training goes on from a state, which holds them all.
        names: name of a structure, a channel or a category here to its name in the checkpoint.
        allow_other_intensity: whether weights may be taken from another kind of image.
        record_path: where the training leaves its record; None for nowhere.
    """

    stage: str
    path: str
    file_sha256: str
    card: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None = field(repr=False)
    names: Mapping[str, str] = field(default_factory=dict)
    allow_other_intensity: bool = False
    record_path: Path | None = None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights whose names begin with a prefix, without it."""
        weights = self.weights or {}
        return {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }

    def attach(self, trainer: Any) -> None:
        """Leave the record when the first batch begins: its state is saved then."""
        trainer.add_event_handler(Events.ITERATION_STARTED(once=1), self._write_record)

    def _write_record(self, trainer: Engine) -> None:
        if self.record_path is None or not is_main_process():
            return
        record = {"file_sha256": self.file_sha256, "card": dict(self.card)}
        write_atomically(self.record_path, json.dumps(record, sort_keys=True).encode())


def open_start(
    start_from: str | Path | None,
    *,
    stage: str,
    names: Mapping[str, str] | None = None,
    allow_other_intensity: bool = False,
    output_dir: str | Path | None = None,
    resume: str = "auto",
) -> StartCheckpoint | None:
    """Open the checkpoint that a training starts from; None for a training from nothing.

    Args:
        start_from: the file, safetensors with a card; None for a training from nothing.
        stage: "autoencoder" or "diffusion"; an autoencoder may come out of a second stage's file.
        names: name of a structure, a channel or a category here to its name in the checkpoint, where they
            differ. Several may name one: both halves of a structure that was split begin as it was.
        allow_other_intensity: take weights of another kind of image, such as MR for CT, else refused.
        output_dir: of the training, where its states and the record lie; None for a training without.
        resume: as of `RunConfig`; "never" reads the file anew.

    Raises:
        CheckpointError: if the file is missing, damaged or of another kind.
        StorageError: if the output cannot be written into.
        ConfigError: if `names` or `allow_other_intensity` is not what it should be, or given without a file.
        StateError: if the training started from another file than the one that is there.
    """
    if output_dir is not None:
        require_writable(output_dir)
    table = _read_table(names)
    allows = read_switch(allow_other_intensity, name="allow_other_intensity")
    if start_from is None:
        if table or allows:
            raise ConfigError(
                "start_names and allow_other_intensity say how weights are taken over, but start_from is "
                "null: name a checkpoint with start_from, or leave them out"
            )
        return None
    states = None if output_dir is None else Path(output_dir) / "state" / stage
    given: dict[str, Any] = {
        "stage": stage,
        "path": str(start_from),
        "names": table,
        "allow_other_intensity": allows,
        "record_path": None if states is None else states / RECORD,
    }
    record = None if states is None or resume == "never" else _read_record(states, str(start_from))
    if record is not None:
        _note_record(record, start_from)
        return StartCheckpoint(file_sha256=record["file_sha256"], card=record["card"], weights=None, **given)
    found = load_checkpoint(start_from)
    if found.card.get("kind") not in KINDS[stage]:
        raise CheckpointError(
            f"start_from is {start_from}, which holds a model of kind {found.card.get('kind')!r}: a training "
            f"of the stage {stage} starts from one of {' or '.join(map(repr, KINDS[stage]))}"
        )
    return StartCheckpoint(file_sha256=hash_file(start_from), card=found.card, weights=found.weights, **given)


def _read_table(names: Mapping[str, str] | None) -> dict[str, str]:
    is_table = names is None or isinstance(names, Mapping)
    if not is_table or not all(isinstance(each, str) for pair in (names or {}).items() for each in pair):
        raise ConfigError(
            f"start_names is {names!r}: a table of a name here to its name in the checkpoint is needed, such "
            "as {'left hippocampus': 'hippocampus'}"
        )
    return dict(names or {})


def _read_record(states: Path, start_from: str) -> dict[str, Any] | None:
    """Return the record of a training that goes on, None where the file must be read.

    It is this training's where the same file is given, by whatever name, or none is there any more.

    Raises:
        StateError: if another file is there, and not one that the training has written itself.
    """
    if not StateFolders(states).steps():
        return None
    try:
        record = read_json(states / RECORD)
        own = record["file_sha256"]
        is_known = isinstance(record["card"], dict) and isinstance(own, str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not is_known:
        return None
    given = Path(start_from)
    is_own = given.resolve().parent == states.resolve().parents[1] and given.name in WRITTEN[states.name]
    if given.is_file() and not is_own and (found := hash_file(start_from)) != own:
        raise StateError(
            f"start_from is {start_from}, another file (SHA-256 {found[:12]}) than the one that the training "
            f"in {states.parents[1]} started from ({own[:12]}), which its state no longer needs: give that "
            "one or take this one away to go on, or begin anew with resume never or another output_dir"
        )
    return record


def _note_record(record: Mapping[str, Any], start_from: str | Path) -> None:
    """Say that a training goes on without the file, and whether that is still there."""
    name = Path(start_from).name
    if Path(start_from).is_file():
        logger.info("the training goes on: %s is not read again", name)
        return
    logger.warning(
        "start_from: %s is not there any more, moved or deleted; the training goes on from its state, which "
        "holds all that it took of the file (SHA-256 %s)",
        *(name, record["file_sha256"][:12]),
    )
