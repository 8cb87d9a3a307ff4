"""What the files of a cohort's cases hold, as hashes: a cohort that was moved or copied is still the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from medldm.data.case_checks import VOLUME_KEYS, volume_files
from medldm.data.cohort import Cohort
from medldm.data.file_info import FileInfo
from medldm.data.file_info_cache import gather_file_info
from medldm.data.listing import Case
from medldm.data.split_record import CONTENT
from medldm.runtime.distributed import require_same


def with_contents(cohort: Cohort) -> Cohort:
    """Add to each case, under `CONTENT`, what its files hold.

    Args:
        cohort: that was found sound, so that every voxel was read and is remembered.
    """
    files = [(file, key == "label") for case in cohort.cases for key, file in volume_files(case)]
    known = gather_file_info(files, root=cohort.root)

    def extend(case: Case) -> Case:
        contents: dict[str, list[str]] = {}
        for key, file in volume_files(case):
            contents.setdefault(key, []).append(_hash_info(known[file]))
        return case | {CONTENT: contents}

    return cohort.map_cases(extend)


def require_same_cohort(cohort: Cohort, *, what: str = "cohort") -> None:
    """Refuse a cohort of which the processes of one job have other copies; a single process may read any.

    Args:
        cohort: of `with_contents`.
        what: it is, for the error.

    Raises:
        DistributedError: in every process, naming the parts that differ.
    """
    stated: dict[str, Any] = {
        f"the {split} cases of the {what}": [
            {key: value for key, value in case.items() if key not in VOLUME_KEYS} for case in cases
        ]
        for split, cases in cohort.splits.items()
    }
    schema = None if cohort.schema is None else cohort.schema.to_dict()
    require_same({**stated, f"the structures and channels of the {what}": [schema, cohort.channels]})


def _hash_info(info: FileInfo) -> str:
    content = json.dumps([info.content_hash, info.shape, info.affine])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
