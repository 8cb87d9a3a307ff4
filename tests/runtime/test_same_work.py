"""Processes that do not work on the same are refused before the first batch."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm.runtime.distributed import DistributedError, require_close, require_same
from medldm.training import open_cohort
from tests.rank_processes import run_on_ranks


def test_alone_everything_is_the_same() -> None:
    require_same({"a": object()})
    require_close(torch.zeros(1), name="a")


def refused(rank: int, *, folder: Path) -> None:
    require_same({"a": 1, "b": [1, 2]})
    with pytest.raises(DistributedError, match=r"the b \(processes \[2\]\) differ") as caught:
        require_same({"the a": 1, "the b": rank == 2})
    assert "the a" not in str(caught.value)
    with pytest.raises(DistributedError, match=r"processes \[1\] do other work"):
        require_same({"a": 1, **({"b": 2} if rank == 1 else {})})
    require_close(torch.ones(3) * (1 + 1e-6 * rank), name="the weights")
    with pytest.raises(DistributedError, match="the weights differ"):
        require_close(torch.ones(3) * (1 + 0.1 * (rank == 1)), name="the weights")
    (folder / f"done_{rank}").touch()


def test_what_differs_is_named_in_every_process(tmp_path: Path) -> None:
    assert run_on_ranks(partial(refused, folder=tmp_path), tmp_path / "ranks", n=3) == [0, 0, 0]
    assert len(list(tmp_path.glob("done_*"))) == 3


def spoil(cohort: Path, kind: str) -> None:
    """Make a copy differ as a copy on another machine may."""
    if kind == "a case more":
        for folder in ("images", "labels"):
            shutil.copy(cohort / folder / "case_0.nii.gz", cohort / folder / "case_9.nii.gz")
    elif kind == "a voxel":
        file = cohort / "images" / "case_1.nii.gz"
        image = nib.load(file)
        voxels = np.array(image.dataobj)
        voxels[3, 4, 5] += 1
        nib.save(nib.Nifti1Image(voxels, image.affine), file)
    elif kind == "two files exchanged":
        names = [cohort / "images" / f"case_{number}.nii.gz" for number in (0, 1)]
        contents = [file.read_bytes() for file in names]
        for file, content in zip(names, reversed(contents), strict=True):
            file.write_bytes(content)
    elif kind == "a structure's name":
        (cohort / "labels.json").write_text(json.dumps({"1": "core", "5": "shell"}))


def open_own(rank: int, *, copies: list[Path]) -> None:
    open_cohort(str(copies[rank]), validation_fraction=0.25, seed=0)


@pytest.mark.parametrize("kind", ["a case more", "a voxel", "two files exchanged", "a structure's name", ""])
def test_copies_of_a_cohort_that_differ_are_refused(make_cohort, tmp_path, capfd, kind) -> None:
    copies = [make_cohort(4, name="first"), tmp_path / "second"]
    shutil.copytree(copies[0], copies[1])
    spoil(copies[1], kind)
    codes = run_on_ranks(partial(open_own, copies=copies), tmp_path / "ranks")
    sys.stderr.flush()
    error = capfd.readouterr().err
    if kind:
        assert codes == [1, 1]
        assert "the 2 processes do not work on the same" in error
        assert "of the cohort (processes [1])" in error
    else:
        assert codes == [0, 0]
