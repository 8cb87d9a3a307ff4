"""What the files of a cohort's cases hold, as hashes: a cohort that was moved or copied is still the same."""

from __future__ import annotations

import hashlib
import json

from medldm.data.case_checks import volume_files
from medldm.data.cohort import Cohort
from medldm.data.file_info import FileInfo
from medldm.data.file_info_cache import gather_file_info
from medldm.data.listing import Case
from medldm.data.split_record import CONTENT


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


def _hash_info(info: FileInfo) -> str:
    content = json.dumps([info.content_hash, info.shape, info.affine])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
