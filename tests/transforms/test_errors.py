"""Errors of volumes name the file, and keep folders out."""

from __future__ import annotations

import pickle
from pathlib import Path

from medldm.transforms.errors import CorruptVolumeError, VolumeError


def test_message_names_the_file_without_its_folder() -> None:
    error = CorruptVolumeError("it is cut", file=Path("some/Doe^John/case.nii"))
    assert str(error) == "case.nii: it is cut"
    assert isinstance(error, VolumeError) and isinstance(error, ValueError)


def test_error_survives_the_way_out_of_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(CorruptVolumeError("it is cut", file="case.nii")))
    assert type(error) is CorruptVolumeError
    assert (error.reason, error.file) == ("it is cut", Path("case.nii"))
