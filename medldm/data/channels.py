"""Several contrasts of one subject as the channels of one case, told apart by their names.

A case's "image" is one path, or, with several channels, a list of paths in the order of `Cohort.channels`.
While a cohort is read the list holds None where a case lacks a contrast; `select_channels` settles that.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.configs import unknown_name_message
from medldm.data.issues import Issue
from medldm.errors import ConfigError
from medldm.runtime.json_files import read_json

logger = logging.getLogger(__name__)

CHANNELS_FILE = "channels.json"
CHANNELS_KEY = "channels"
ENDINGS_KEY = "endings"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def check_channel_names(names: Any) -> tuple[str, ...]:
    """Return the names of channels.

    Args:
        names: a list of plain names, each once; none may end in "_" and another one, so that the ending of a
            file's name says which channel it is.

    Raises:
        ConfigError: naming what is wrong with them.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ConfigError(f'channels are {names!r}; a list of names such as ["t1n", "t1c"] is needed')
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"the channel {name!r} is no plain name; letters, digits, '.', '_', '+' and '-' are allowed, "
                "up to 64, the first a letter or digit"
            )
    for name in names:
        if list(names).count(name) > 1:
            raise ConfigError(f"the channel {name!r} is listed twice; list each once")
        if ending := next((other for other in names if name.endswith(f"_{other}")), None):
            raise ConfigError(
                f"the channel {name!r} ends in '_{ending}', another channel: a file's name would not say "
                "which it is; rename one"
            )
    return tuple(names)


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of channels given in one text, "t1n,t2w", as a command has them; None for None.

    Raises:
        ConfigError: as `check_channel_names` does.
    """
    return None if text is None else check_channel_names([name.strip() for name in text.split(",")])


def read_channel_names(content: Any) -> tuple[str, ...]:
    """Return the names under "channels" of a JSON object; () where there are none.

    Raises:
        ConfigError: as `check_channel_names` does.
    """
    if not isinstance(content, Mapping) or content.get(CHANNELS_KEY) is None:
        return ()
    return check_channel_names(content[CHANNELS_KEY])


def read_channels_file(root: Path, *, issues: list[Issue]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the channels of channels.json in a cohort's folder and the endings of their files' names.

    Both are () without the file; what is wrong joins `issues`. The endings are the names themselves unless
    "endings" says otherwise, such as ["0000", "0001"] for files named as nnU-Net names them.
    """
    file = root / CHANNELS_FILE
    if not file.is_file():
        return (), ()
    try:
        content = read_json(file)
        names = read_channel_names(content)
        if not names:
            raise ConfigError('it names no channels; {"channels": ["t1n", "t1c"]} is needed')
        endings = check_channel_names(content.get(ENDINGS_KEY) or names)
        if len(endings) != len(names):
            raise ConfigError(
                f"it has {len(names)} channels and {len(endings)} endings; one for each is needed"
            )
    except ValueError as error:
        issues.append(Issue.error("channel", CHANNELS_FILE, str(error)))
        return (), ()
    return names, endings


def describe_channels(names: Sequence[str], *, endings: Sequence[str] | None = None) -> bytes:
    """Return the content of channels.json; `endings` of the files where they are not the names."""
    content = {CHANNELS_KEY: list(names)}
    if endings is not None and tuple(endings) != tuple(names):
        content[ENDINGS_KEY] = list(endings)
    return (json.dumps(content, indent=2) + "\n").encode()


def join_channels(
    volumes: Mapping[str, Path], endings: Sequence[str], *, issues: list[Issue]
) -> dict[str, list[str | None]]:
    """Join the files <case>_<ending> to cases.

    Args:
        volumes: stem to file.
        endings: of the channels' files, in the order of the channels.
        issues: receives an error for each file whose name ends in no channel.

    Returns:
        Case to its files in the order of the channels, None where it lacks one.
    """
    found: dict[str, list[str | None]] = {}
    for stem, file in volumes.items():
        place = next((place for place, name in enumerate(endings) if stem.endswith(f"_{name}")), None)
        case = "" if place is None else stem.removesuffix(f"_{endings[place]}")
        if place is None or not case:
            listed = ", ".join(f"_{name}" for name in endings)
            message = (
                f"its name is no case and one of {listed}; rename it, or name its channel in {CHANNELS_FILE}"
            )
            issues.append(Issue.error("channel", f"{file.parent.name}/{file.name}", message))
            continue
        found.setdefault(case, [None] * len(endings))[place] = str(file)
    return found


def order_by_name(entry: Any, channels: Sequence[str]) -> list[str | None]:
    """Return the paths of a datalist's "image" in the order of the channels, None where one is missing.

    Args:
        entry: a list in the order of the channels, or a mapping from channel to path.
        channels: of the cohort.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(entry, Mapping):
        if unknown := [name for name in entry if name not in channels]:
            raise ConfigError(unknown_name_message(str(unknown[0]), channels, kind="channel"))
        entry = [entry.get(name) for name in channels]
    entry = [entry] if isinstance(entry, str) else entry
    if not isinstance(entry, list | tuple) or not all(isinstance(file, str | None) for file in entry):
        raise ConfigError("a path for each channel is needed, as a list or as {channel: path}")
    if len(entry) != len(channels):
        raise ConfigError(f"it has {len(entry)} files; one for each channel is needed: {', '.join(channels)}")
    return list(entry)


def select_channels(
    cases: Iterable[dict[str, Any]],
    known: Sequence[str],
    *,
    wanted: Sequence[str] | None,
    drop_incomplete: bool,
    issues: list[Issue],
) -> list[dict[str, Any]]:
    """Return the cases with the wanted channels in the wanted order; those that lack one join `issues`.

    Args:
        cases: with a list under "image" where the cohort has channels.
        known: channels of the cohort, () for one without a name.
        wanted: names; None for all.
        drop_incomplete: leave cases that lack a channel out, with one warning in place of an error each.
        issues: receives what is found.

    Raises:
        ConfigError: for a wanted channel that the cohort does not have.
    """
    names = choose_channels(known, wanted)
    complete, lacking = [], []
    for case in cases:
        if not names or "image" not in case:
            complete.append(case)
            continue
        files = dict(zip(known, case["image"], strict=True))
        chosen = [files[name] for name in names]
        if missing := [name for name, file in zip(names, chosen, strict=True) if file is None]:
            lacking.append((case["id"], missing))
        else:
            complete.append(case | {"image": chosen if len(chosen) > 1 else chosen[0]})
    issues += _lacking_issues(lacking, drop_incomplete=drop_incomplete)
    return complete


def choose_channels(known: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the wanted ones of the known channels, in the wanted order; all of them for None.

    Raises:
        ConfigError: for a name that is not known, or where the channels have no names.
    """
    if wanted is None:
        return tuple(known)
    names = check_channel_names(wanted)
    if not known:
        raise ConfigError(
            f"channels are {list(names)}, but the cohort names no channels: leave them out, or name the "
            f'contrasts in {CHANNELS_FILE}, or under "{CHANNELS_KEY}" in cohort.json'
        )
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name_message(name, known, kind="channel"))
    return names


def _lacking_issues(lacking: list[tuple[str, list[str]]], *, drop_incomplete: bool) -> list[Issue]:
    if not drop_incomplete:
        advice = (
            "add the file, leave the contrast out with channels, or leave such cases out with drop_incomplete"
        )
        return [
            Issue.error("channel", case, f"the case lacks {', '.join(missing)}; {advice}")
            for case, missing in lacking
        ]
    if not lacking:
        return []
    named = ", ".join(f"{case} ({', '.join(missing)})" for case, missing in lacking)
    message = f"{len(lacking)} cases that lack a contrast are left out: {named}"
    logger.warning("%s", message)
    return [Issue.warning("channel", "images", message)]
