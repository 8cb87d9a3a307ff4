"""Read the folder layouts that cohorts come in."""

from medldm.data.layouts.detect import read_layout, read_where_it_lies
from medldm.data.layouts.names import CaseName, read_name, read_names
from medldm.data.layouts.records import Layout, NamedStructures, Scan
from medldm.data.layouts.subjects import Subjects, decide_subjects

__all__ = [
    "CaseName",
    "Layout",
    "NamedStructures",
    "Scan",
    "Subjects",
    "decide_subjects",
    "read_layout",
    "read_name",
    "read_names",
    "read_where_it_lies",
]
