"""`medldm train`: which workflows of which bundle run, with which arguments of `medldm run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from medldm.errors import ConfigError, MissingFileError
from medldm.runtime.bundle_keys import Read, read_plain, split_arguments
from medldm.sharing.shipped import IMAGES, LABEL_MAPS, find_bundle, list_bundles, require_weights
from medldm.training.resume.state_folders import RECORD

STAGES = ("autoencoder", "diffusion")
CHOICES = {"autoencoder": ("autoencoder",), "diffusion": ("diffusion",), "all": STAGES, "labelmap": STAGES}
"""What a user names, and the stages it stands for."""
OF_BOTH = frozenset(
    {
        *("validation_fraction", "test_fraction", "split_seed", "channels", "drop_incomplete"),
        *("precision", "checkpointing", "num_workers", "resume", "max_bad_share", "save_minutes"),
        *("seed", "device", "start_from", "allow_other_intensity"),
    }
)
"""Knobs of both stages that mean the same in both."""
_SET_HERE = ("config_file", "bundle_root", "dataset_dir", "output_dir")


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What `medldm train` was asked for.

    Args:
        choice: one of `CHOICES`.
        cohort: folder or datalist.
        output_dir: receives the checkpoints.
        bundle: name or folder; None for `mri_label_ldm`, or `labelmap_ldm` for "labelmap".
        knobs: "--name value" words of the stage, or of both where they mean the same in both.
        stage_knobs: stage to its own NAME=VALUE words.
    """

    choice: str
    cohort: str
    output_dir: str
    bundle: str | None = None
    knobs: Sequence[str] = ()
    stage_knobs: Mapping[str, Sequence[str]] = field(default_factory=dict)


def list_runs(request: TrainingRequest, *, read: Read = read_plain) -> list[list[str]]:
    """Return the arguments of `medldm run` for each stage, in their order.

    Args:
        request: what was asked for.
        read: reads a config file.

    Raises:
        ConfigError: if a knob is given to a stage that is not trained, to both stages where it means another
            thing in each, or to neither.
        MissingFileError: if there is no cohort, or no workflow in the bundle.
    """
    stages = CHOICES[request.choice]
    bundle = find_bundle(request.bundle or (LABEL_MAPS if request.choice == "labelmap" else IMAGES))
    if not Path(request.cohort).exists():
        raise MissingFileError(f"no cohort at {request.cohort}: give a folder with images/, or a datalist")
    if len(stages) > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{request.choice} trains two stages, and the processes of torchrun train one: run "
            f"medldm train autoencoder, then medldm train diffusion, with --bundle {bundle.name}"
        )
    files = {stage: bundle.config(f"train_{stage}") for stage in stages}
    own = _share_out(request, {stage: frozenset(read(str(file))) for stage, file in files.items()})
    common = [
        *("--bundle_root", str(bundle.path)),
        *("--dataset_dir", request.cohort),
        *("--output_dir", request.output_dir),
    ]
    for stage, words in own.items():
        own[stage] = _find_start(words, Path(request.output_dir) / "state" / stage)
    return [["--config_file", _config_files(file), *common, *own[stage]] for stage, file in files.items()]


def _config_files(workflow: Path) -> str:
    """Return the workflow's file, and the overlay for several processes where torchrun started some."""
    overlay = workflow.with_name("multi_gpu.yaml")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and overlay.is_file():
        return str([str(workflow), str(overlay)])
    return str(workflow)


def _share_out(request: TrainingRequest, keys: Mapping[str, Set[str]]) -> dict[str, list[str]]:
    """Return the words of each stage's knobs."""
    strangers = [stage for stage, words in request.stage_knobs.items() if words and stage not in keys]
    if strangers:
        raise ConfigError(f"--{strangers[0]} is given, but {request.choice} trains {list(keys)} alone")
    own = {stage: _read_words(request.stage_knobs.get(stage, ()), stage=stage) for stage in keys}
    for name, words in _split(request.knobs).items():
        for stage in _stages_with(name, keys):
            own[stage] += words
    return own


def _stages_with(name: str, keys: Mapping[str, Set[str]]) -> list[str]:
    """Return the stages that a knob goes to: where no stage has it, all of them, which refuse it by name."""
    stages = [stage for stage, own in keys.items() if name.split("#")[0] in own]
    if len(stages) > 1 and name not in OF_BOTH:
        example = " ".join(f"--{stage} {name}=VALUE" for stage in stages)
        raise ConfigError(f"--{name} means another thing in each stage: say which, as in {example}")
    return stages or list(keys)


def _read_words(words: Sequence[str], *, stage: str) -> list[str]:
    """Turn NAME=VALUE words into "--NAME VALUE" ones."""
    found: list[str] = []
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ConfigError(f"--{stage} {word!r} is no KNOB=VALUE: write for example batch_size=2")
        found += [f"--{name}", value]
    _refuse_own(found)
    return found


def _split(words: Sequence[str]) -> dict[str, list[str]]:
    """Return each knob's words by its name."""
    given = split_arguments(words)
    n_words = sum(
        1 if word.startswith("--") and "=" in word else 2 for word in words if word.startswith("--")
    )
    if words and n_words != len(words):
        raise ConfigError(f"{' '.join(words)}: give knobs as --name value, as in --n_steps 5000")
    _refuse_own([f"--{name}" for name in given])
    return {name: [f"--{name}", value] for name, value in given.items()}


def _find_start(words: Sequence[str], states: Path) -> list[str]:
    """Put the weights of an installed bundle in the place of its name, where a training starts from it.

    One that goes on needs them no longer, see `medldm.training.warm_start.checkpoint`.
    """
    found = list(words)
    names = {bundle.name: bundle for bundle in list_bundles()}
    for place, (word, value) in enumerate(pairwise(words)):
        if word == "--start_from" and value in names:
            bundle = names[value] if (states / RECORD).is_file() else require_weights(names[value])
            found[place + 1] = str(bundle.model)
    return found


def _refuse_own(words: Sequence[str]) -> None:
    """Refuse knobs that the command sets itself."""
    for name in _SET_HERE:
        if f"--{name}" in words:
            raise ConfigError(f"--{name} is set by COHORT, OUT and --bundle: leave it out")
