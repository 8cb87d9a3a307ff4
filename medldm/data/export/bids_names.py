"""Name files as BIDS does: subjects, sessions, runs and contrasts.

Source: Brain Imaging Data Structure 1.10, "Filename template" and "Magnetic Resonance Imaging".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from medldm.data.export.cases import ExportCase, ExportSet
from medldm.data.export.options import ExportOptions
from medldm.data.export.structures import plain_name
from medldm.errors import ConfigError

KNOWN_CHANNELS = {
    **dict.fromkeys(("t1", "t1n", "t1w"), ("", "T1w")),
    **dict.fromkeys(("t1c", "t1ce", "t1gd"), ("contrast", "T1w")),
    **dict.fromkeys(("t2", "t2w"), ("", "T2w")),
    **dict.fromkeys(("t2f", "flair"), ("", "FLAIR")),
    **dict.fromkeys(("pd", "pdw"), ("", "PDw")),
}
"""Name of a channel -> contrast agent and suffix."""

SUFFIXES = (
    "T1w",
    "T2w",
    "PDw",
    "T2starw",
    "FLAIR",
    "inplaneT1",
    "inplaneT2",
    "angio",
    "T1map",
    "T2map",
    "PDmap",
)
_SESSION = re.compile(r"(?:^|_)ses-([A-Za-z0-9]+)(?=_|$)")
_RUN = re.compile(r"(?:^|_)run-([0-9]+)(?=_|$)")


@dataclass(frozen=True, kw_only=True)
class ChannelName:
    """How the files of a channel are named.

    Args:
        channel: of the cohort; "" for the only one.
        suffix: such as "T1w".
        agent: entity "ce", or "".
        acquisition: entity "acq", or "": the channel's own name, where its suffix does not tell it.
        datatype: folder of the files.
        ignored: line of .bidsignore, where BIDS has no such suffix.
    """

    channel: str
    suffix: str
    agent: str = ""
    acquisition: str = ""
    datatype: str = "anat"
    ignored: str = ""


@dataclass(frozen=True, kw_only=True)
class BidsName:
    """The entities of a case.

    Args:
        subject: letters and digits.
        session: the same, or "".
        run: digits, or "".
    """

    subject: str
    session: str = ""
    run: str = ""

    def file(self, suffix: str, channel: ChannelName | None = None, *, description: str = "") -> str:
        """Return the path of a .nii.gz file within the data set."""
        folder = f"sub-{self.subject}" + (f"/ses-{self.session}" if self.session else "")
        entities = [
            ("sub", self.subject),
            ("ses", self.session),
            ("acq", channel.acquisition if channel else ""),
            ("ce", channel.agent if channel else ""),
            ("run", self.run),
            ("desc", description),
        ]
        stem = "_".join(f"{key}-{value}" for key, value in entities if value)
        return f"{folder}/{channel.datatype if channel else 'anat'}/{stem}_{suffix}.nii.gz"


def channel_names(cases: ExportSet, options: ExportOptions) -> list[ChannelName]:
    """Return how the files of each channel are named, in order.

    A suffix is the user's, or follows from a channel's customary name. Without either, none is made up: the
    files end in _mri or _ct, which BIDS does not know.

    Raises:
        ConfigError: for a suffix that is given for no channel.
    """
    channels = cases.channels or ("",)
    if unknown := sorted(set(options.suffixes) - set(channels)):
        raise ConfigError(
            f"a suffix is given for the channel {unknown[0]!r}; the channels are {list(channels)}"
        )
    named = [_channel_name(channel, cases.modality, options.suffixes.get(channel)) for channel in channels]
    places = defaultdict(list)
    for each in named:
        places[each.agent, each.acquisition, each.suffix].append(each.channel)
    if shared := [each for each in places.values() if len(each) > 1]:
        raise ConfigError(f"the channels {shared[0]} come to have one file name: give --suffix for each")
    return named


def _channel_name(channel: str, modality: str, suffix: str | None) -> ChannelName:
    if suffix is None and channel.lower() in KNOWN_CHANNELS:
        agent, known = KNOWN_CHANNELS[channel.lower()]
        return ChannelName(channel=channel, suffix=known, agent=agent)
    if suffix in SUFFIXES:
        return ChannelName(channel=channel, suffix=suffix)
    own = suffix or ("ct" if modality == "CT" else "mri")
    return ChannelName(
        channel=channel,
        suffix=own,
        acquisition="" if suffix else plain_name(channel, keep="", gap=""),
        ignored=f"**/*_{own}.*",
    )


def name_cases(cases: Sequence[ExportCase]) -> dict[str, BidsName]:
    """Return the entities of each case, by its id.

    Raises:
        ConfigError: where two subjects come to have one name of letters and digits.
    """
    subjects: dict[str, str] = {}
    groups: dict[tuple[str, str], list[ExportCase]] = defaultdict(list)
    for case in cases:
        name = plain_name(case.subject.removeprefix("sub-"), keep="", gap="")
        if not name or subjects.setdefault(name.casefold(), case.subject) != case.subject:
            other = subjects.get(name.casefold(), "no letter or digit")
            raise ConfigError(
                f"the subjects {case.subject!r} and {other!r} have one name in BIDS, which takes letters and "
                "digits alone: rename one"
            )
        match = _SESSION.search(case.cohort_id)
        groups[name, match.group(1) if match else ""].append(case)
    named = {}
    for (subject, session), group in groups.items():
        own = ["".join(_RUN.findall(case.cohort_id)[:1]) for case in group]
        # A case's own run where they tell the cases apart, else a count.
        runs = own if len(set(own)) == len(group) else [str(n) for n in range(1, len(group) + 1)]
        for case, run in zip(group, runs, strict=True):
            named[case.id] = BidsName(subject=subject, session=session, run=run)
    return named
