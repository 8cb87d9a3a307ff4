"""No mutation of a header and no truncation leads to anything but a volume or an error of the package."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.transforms.errors import VolumeError
from medldm.transforms.load import LoadVolume
from medldm.transforms.nifti import read_nifti
from medldm.transforms.nifti_header import NIFTI_1, NIFTI_2
from medldm.transforms.raw_volume import VolumeNumber

CAP_BYTES = 1 << 20
INTERESTING = [b"\0" * 8, b"\xff" * 8, b"\x7f" * 8, b"\x80" + b"\0" * 7, np.float32(np.nan).tobytes() * 2]
INTERESTING += [
    np.float64(np.nan).tobytes(),
    np.float32(np.inf).tobytes() * 2,
    np.float32(1e-6).tobytes() * 2,
]
FIELD_OFFSETS = {
    layout: sorted({offset + step for _, offset, *_ in layout.fields.values() for step in (0, 2, 4, 8, 16)})
    for layout in (NIFTI_1, NIFTI_2)
}


def sound_file(image_class: type, n_volumes: int = 1) -> bytes:
    shape = (4, 3, 5, n_volumes)[: 3 + (n_volumes > 1)]
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stream = io.BytesIO()
    image = image_class(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.to_stream(stream)
    return stream.getvalue()


SOUND = {NIFTI_1: sound_file(nib.Nifti1Image), NIFTI_2: sound_file(nib.Nifti2Image)}
OF_THREE = {NIFTI_1: sound_file(nib.Nifti1Image, 3), NIFTI_2: sound_file(nib.Nifti2Image, 3)}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "case.nii.gz"


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        volume = LoadVolume(max_bytes=CAP_BYTES)(path)
        assert volume.ndim == 4
        assert bool(volume.isfinite().all())
    except VolumeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Bounded pieces of the file and of the inflater come on top of the volume itself.
    assert peak < 8 * CAP_BYTES + (16 << 20)


mutations = st.lists(
    st.tuples(
        st.integers(0, 10_000), st.one_of(st.sampled_from(INTERESTING), st.binary(min_size=1, max_size=8))
    ),
    min_size=1,
    max_size=4,
)
quick = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


@settings(quick, max_examples=1000)
@given(layout=st.sampled_from([NIFTI_1, NIFTI_2]), changes=mutations, is_gzip=st.booleans())
def test_mutated_headers_are_read_or_refused(
    target: Path, layout: np.dtype, changes: list[tuple[int, bytes]], is_gzip: bool
) -> None:
    content = bytearray(SOUND[layout])
    for place, value in changes:
        offset = FIELD_OFFSETS[layout][place % len(FIELD_OFFSETS[layout])]
        content[offset : offset + len(value)] = value
    read_or_refuse(target, gzip.compress(bytes(content), 1) if is_gzip else bytes(content))


@settings(quick, max_examples=150)
@given(
    layout=st.sampled_from([NIFTI_1, NIFTI_2]),
    changes=mutations,
    index=st.integers(0, 2),
    share=st.sampled_from([1.0, 1.0, 0.9, 0.5]),
)
def test_mutated_files_of_several_volumes_are_read_or_refused(
    target: Path, layout: np.dtype, changes: list[tuple[int, bytes]], index: int, share: float
) -> None:
    content = bytearray(OF_THREE[layout])
    for place, value in changes:
        offset = FIELD_OFFSETS[layout][place % len(FIELD_OFFSETS[layout])]
        content[offset : offset + len(value)] = value
    target.write_bytes(content[: int(share * len(content))])
    try:
        raw = read_nifti(target, volume=VolumeNumber(index, 3), max_bytes=CAP_BYTES)
    except VolumeError:
        return
    assert raw.array.ndim == 3 and raw.array.size * 4 <= CAP_BYTES and share == 1


@settings(quick, max_examples=500)
@given(layout=st.sampled_from([NIFTI_1, NIFTI_2]), share=st.floats(0, 1), is_gzip=st.booleans())
def test_truncations_are_refused(target: Path, layout: np.dtype, share: float, is_gzip: bool) -> None:
    content = gzip.compress(SOUND[layout], 1) if is_gzip else SOUND[layout]
    target.write_bytes(content[: int(share * (len(content) - 1))])
    with pytest.raises(VolumeError):
        read_nifti(target, max_bytes=CAP_BYTES)


@settings(quick, max_examples=500)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_no_flipped_bit_in_a_gzip_file_changes_voxels_unseen(target: Path, place: float, bit: int) -> None:
    content = bytearray(gzip.compress(SOUND[NIFTI_1], 1))
    content[int(place * (len(content) - 1))] ^= 1 << bit
    target.write_bytes(content)
    sound = np.frombuffer(SOUND[NIFTI_1][352:], dtype="<f4").reshape((4, 3, 5), order="F")
    try:
        array = read_nifti(target, max_bytes=CAP_BYTES).array
    except VolumeError:
        return
    # Only bits of the gzip header that carry no data (time stamp, operating system) may pass.
    np.testing.assert_array_equal(array, sound)


@settings(quick, max_examples=200)
@given(content=st.binary(max_size=700))
def test_arbitrary_bytes_are_refused(target: Path, content: bytes) -> None:
    read_or_refuse(target, content)
