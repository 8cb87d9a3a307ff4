"""Find a cohort's cases and split them by subject."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.data.case_checks import check_cases, image_files
from medldm.data.channels import check_channel_names, choose_channels, select_channels
from medldm.data.file_info_cache import gather_file_info
from medldm.data.issues import CohortError, Issue
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.data.listing import Case, read_lists
from medldm.data.partly_labelled import STRUCTURES_IN_MAP, settle_structures
from medldm.data.split_record import SplitRecord
from medldm.data.splits import SPLITS, VALIDATION_FRACTION, check_fractions, complete_split
from medldm.errors import ConfigError, MissingFileError

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.json"


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The cases of a cohort, split by subject.

    Args:
        root: folder to which file names in messages are relative.
        training: MONAI dictionaries with "id", "subject", "image", "label" (absolute paths); where they are
            given, "condition_image" (a path), "class" (a number), "classes" (column to category), "scalars"
            (column to number) and "text". With several channels "image" is a list of paths in their order.
            In a partly labelled cohort a case with a label map has "structures_in_map", the names of those
            that were looked for.
        validation: the same form; they choose epochs and limits.
        test: the same form; they choose nothing.
        schema: the structures of the label maps; None where the cohort has no label maps.
        channels: names of the channels of an image, in their order; () for one without a name.
        layout: name of a foreign layout that was read where it lies; "" for the toolkit's own and for lists.
        issues: what is wrong with the layout; only warnings unless read with strict=False.
        split_record: of the split, for the checkpoint of a training on it; None until `record_split`.
    """

    root: Path
    training: list[Case]
    validation: list[Case]
    test: list[Case] = field(default_factory=list)
    schema: LabelSchema | None
    channels: tuple[str, ...] = ()
    layout: str = ""
    issues: tuple[Issue, ...] = ()
    split_record: SplitRecord | None = None

    @property
    def cases(self) -> list[Case]:
        """Return all cases, training first."""
        return [*self.training, *self.validation, *self.test]

    @property
    def splits(self) -> dict[str, list[Case]]:
        """Return "training", "validation" and "test" -> cases."""
        return {split: getattr(self, split) for split in SPLITS}

    def map_cases(self, change: Callable[[Case], Case]) -> Cohort:
        """Return the cohort with each case changed."""
        changed = {split: [change(case) for case in cases] for split, cases in self.splits.items()}
        return replace(self, **changed)  # type: ignore[arg-type]

    def with_channels(self, names: Sequence[str]) -> Cohort:
        """Return the cohort with some of its channels, in the given order.

        Raises:
            ConfigError: for a channel that it does not have.
        """
        chosen = choose_channels(self.channels, names)
        lists = {
            split: select_channels(
                [case | {"image": image_files(case)} if "image" in case else case for case in cases],
                self.channels,
                wanted=chosen,
                drop_incomplete=False,
                issues=[],
            )
            for split, cases in self.splits.items()
        }
        return replace(self, **lists, channels=chosen)  # type: ignore[arg-type]

    def relative(self, path: str | Path) -> str:
        """Return a file's name relative to the cohort's folder, for messages."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


def read_cohort(
    dataset_dir: str | Path,
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = 0.0,
    seed: int = 0,
    require_labels: bool = True,
    require_images: bool = True,
    channels: Sequence[str] | None = None,
    drop_incomplete: bool = False,
    strict: bool = True,
) -> Cohort:
    """Read a cohort's list of cases.

    Args:
        dataset_dir: a folder with images/ and labels/ (same file names) and, if wanted, labels.json and
            condition_images/ (other contrasts on the same grid, of all cases or some); where it holds
            channels.json, images are named <case>_<channel>; or a folder holding cohort.json; or a MONAI
            datalist JSON with "training" and, if wanted, "validation" and "test", whose paths are relative to
            the file's folder; or a folder that nnU-Net, MSD, BIDS, TotalSegmentator or FreeSurfer has made.
            subjects.csv in it says which cases are of one subject where names leave it open.
        validation_fraction: share of the subjects set aside where no validation list is given, at least one.
        test_fraction: share of the subjects set aside as a test set where neither list is given, see
            `split_by_subject`.
        seed: of the split; the same seed and subjects always give the same split, on every machine.
        require_labels: refuse cases without label map; else such a case has no "label".
        require_images: refuse a folder with labels/ and no images/; else its cases have no "image".
        channels: names of the contrasts to take, in the order to take them; None for all the cohort names.
        drop_incomplete: leave out cases that lack one of them, with a warning; else they are refused by name.
        strict: raise on layout issues; False collects them in `Cohort.issues`.

    Raises:
        CohortError: listing every file that is missing or does not match, and, where files are at odds, also
            what a check of the remaining ones finds.
        MissingFileError: where `dataset_dir` does not exist.
        ConfigError: for fractions outside 0 to 1, or a channel that the cohort does not have.
    """
    check_fractions(validation_fraction=validation_fraction, test_fraction=test_fraction)
    path = Path(dataset_dir).expanduser().resolve()
    if not path.exists():
        raise MissingFileError(
            f"no cohort at {dataset_dir}; give a folder with images/ and labels/, or a datalist JSON"
        )
    issues: list[Issue] = []
    listing = read_lists(
        path,
        issues=issues,
        require_labels=require_labels,
        require_images=require_images,
        contrasts=channels,
    )
    root, known, lists = listing.root, listing.channels, listing.lists
    if not known and _errors(issues):
        channels = None  # the names could not be read; that is the error to show
    lists = complete_split(
        lists, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed
    )
    # After the split, which must not depend on the contrasts that are wanted.
    lists = {
        split: select_channels(cases, known, wanted=channels, drop_incomplete=drop_incomplete, issues=issues)
        for split, cases in lists.items()
    }
    if not lists["training"] and not _errors(issues):
        issues.append(Issue.error("empty", path.name, "it lists no training case; at least one is needed"))
    cohort = Cohort(
        root=root,
        **lists,  # type: ignore[arg-type]
        schema=None,
        channels=choose_channels(known, channels),
        layout=listing.layout,
    )
    schema = _find_schema(cohort, issues, named=listing.schema)
    if schema is not None:
        unknown = settle_structures(
            cohort.cases, schema.structures, schema.may_be_unknown, root=root, issues=issues
        )
        _log_unknown(unknown, n_maps=len(cohort.cases) - count_unlabelled(cohort.cases))
    cohort = replace(cohort, schema=schema, issues=tuple(issues))
    if strict and _errors(issues):
        raise CohortError(_with_header_errors(cohort))
    logger.info("cohort: %s", describe_split(cohort))
    if 0 < (n := count_unlabelled(cohort.cases)) < len(cohort.cases):
        logger.info("cohort: %d of %d cases have no label map", n, len(cohort.cases))
    return cohort


def count_channels(dataset_dir: str | Path, channels: Sequence[str] | None = None) -> int:
    """Return how many channels the images of a cohort have, by its names alone; nothing is checked.

    Args:
        dataset_dir: as `read_cohort` takes it; where there is none yet, as when MONAI verifies a bundle, 1.
        channels: names of the contrasts to take; None for all that the cohort names.
    """
    path = Path(dataset_dir).expanduser().resolve()
    if channels is not None or not path.exists():
        return len(check_channel_names(channels)) if channels is not None else 1
    known = read_lists(path, issues=[], require_labels=False, require_images=False).channels
    return len(known) or 1


def with_whole_maps(cohort: Cohort) -> Cohort:
    """Return the cohort without training and validation cases whose maps leave a structure uncovered.

    Raises:
        ConfigError: where no training case is left.
    """
    names = () if cohort.schema is None else cohort.schema.names
    kept = {
        split: [case for case in cases if set(names) <= set(case.get(STRUCTURES_IN_MAP, names))]
        for split, cases in cohort.splits.items()
        if split != "test"
    }
    n_all, n_kept = len(cohort.training) + len(cohort.validation), sum(map(len, kept.values()))
    if n_kept == n_all:
        return cohort
    if not kept["training"]:
        raise ConfigError(
            f"none of {len(cohort.training)} training cases has a label map that covers all of {list(names)}"
            ": take the structures that are rarely covered out of labels.json and of the maps"
        )
    logger.warning(
        "%d of %d cases are left out: their label maps do not cover every structure", n_all - n_kept, n_all
    )
    return replace(cohort, **kept)  # type: ignore[arg-type]


def count_unlabelled(cases: Sequence[Case]) -> int:
    """Return how many cases have no label map."""
    return sum("label" not in case for case in cases)


def _with_header_errors(cohort: Cohort) -> list[Issue]:
    """Add to the layout issues what the headers of the remaining cases show, so that one error says all."""
    seen = {(issue.check, issue.file) for issue in cohort.issues}
    others = _errors(check_cases(cohort.cases, schema=cohort.schema, name_of=cohort.relative))
    return [*_errors(cohort.issues), *(item for item in others if (item.check, item.file) not in seen)]


def _errors(issues: Sequence[Issue]) -> list[Issue]:
    return [issue for issue in issues if issue.severity == "error"]


def _log_unknown(unknown: Mapping[str, int], *, n_maps: int) -> None:
    for name, count in unknown.items():
        logger.info("cohort: %s is unknown in %d of %d label maps", name, count, n_maps)


def describe_split(cohort: Cohort) -> str:
    """Say how many cases train, validate and test."""
    counts = {split: len(cases) for split, cases in cohort.splits.items()}
    return "{training} training, {validation} validation and {test} test cases".format(**counts)


def _find_schema(
    cohort: Cohort, issues: list[Issue], *, named: LabelSchema | None = None
) -> LabelSchema | None:
    """Read labels.json, else take what the layout names, else infer the structures from the label maps."""
    if (cohort.root / LABELS_FILE).is_file():
        try:
            return read_label_schema(cohort.root / LABELS_FILE)
        except ValueError as error:
            issues.append(Issue.error("labels", LABELS_FILE, str(error)))
            return None
    if named is not None:
        return named
    files = [(case["label"], True) for case in cohort.cases if "label" in case]
    values: set[int] = set()
    for file, info in gather_file_info(files, root=cohort.root).items():
        values |= set(info.label_counts or ())
        if info.problem:
            issues.append(Issue.error("unreadable", cohort.relative(file), info.problem))
    if values - {0}:
        message = "no %s: %d structures were inferred from the label maps"
        logger.warning(message, LABELS_FILE, len(values - {0}))
        return LabelSchema.inferred(sorted(values))
    if files and not _errors(issues):
        issues.append(Issue.error("label", "labels/", "no label map holds a structure; all voxels are 0"))
    return None
