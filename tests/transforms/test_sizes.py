"""Crops and pads move the affine exactly and can be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.transforms import CentreCropOrPad, ForegroundCrop, PadToMultiple
from medldm.transforms.window import Window, centre_crop_or_pad

SHAPE = (7, 10, 5)


def numbered(affine: np.ndarray) -> MetaTensor:
    voxels = torch.arange(7 * 10 * 5, dtype=torch.float32).reshape(1, *SHAPE) + 1
    return MetaTensor(voxels, affine=torch.from_numpy(affine))


TRANSFORMS = [
    CentreCropOrPad((4, 15, 5)),
    CentreCropOrPad((8, 9, None), fill=0.0),
    CentreCropOrPad((6, 11, 5), fill="edge"),
    PadToMultiple(8),
    PadToMultiple((4, 3, 2), fill=-1.0),
    ForegroundCrop(above=100.0, margin=1),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_kept_voxel_stays_at_its_place_in_the_world(transform: Window, oblique: np.ndarray) -> None:
    volume = numbered(oblique)
    result = transform(volume)
    inverse = np.linalg.inv(oblique)
    kept = 0
    for index in np.ndindex(*result.shape[1:]):
        source = inverse @ result.affine.numpy() @ [*index, 1.0]
        where = np.rint(source[:3]).astype(int)
        if ((where >= 0) & (where < SHAPE)).all():
            kept += 1
            assert float(result[(0, *index)]) == float(volume[(0, *where)])
    assert kept > 50


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inverse_restores_shape_affine_and_kept_voxels(transform: Window, oblique: np.ndarray) -> None:
    volume = numbered(oblique)
    result = transform(volume)
    back = transform.inverse(result)
    assert back.shape == volume.shape
    np.testing.assert_allclose(back.affine.numpy(), oblique, atol=1e-12)
    kept = torch.isin(volume.as_tensor(), result.as_tensor())
    if transform.fill != "edge":
        assert torch.equal(back.as_tensor()[kept], volume.as_tensor()[kept])
    assert not volume.applied_operations


def test_padding_alone_is_undone_to_the_bit(oblique: np.ndarray) -> None:
    for transform in (CentreCropOrPad((11, 12, 13)), PadToMultiple(16)):
        assert torch.equal(
            transform.inverse(transform(numbered(oblique))).as_tensor(), numbered(oblique).as_tensor()
        )


@pytest.mark.parametrize(("fill", "expected"), [("minimum", 1.0), (-5.0, -5.0)])
def test_added_voxels_have_the_fill_value(fill: float, expected: float) -> None:
    assert float(CentreCropOrPad((9, 10, 5), fill=fill)(numbered(np.eye(4)))[0, 0, 0, 0]) == expected


def test_edge_fill_repeats_the_faces() -> None:
    volume = numbered(np.eye(4))
    result = PadToMultiple(8)(volume)
    assert tuple(result.shape) == (1, 8, 16, 8)
    assert float(result[0, 7, 15, 7]) == float(volume[0, 6, 9, 4])


def test_foreground_crop_is_tight_and_keeps_the_margin() -> None:
    voxels = torch.zeros(1, 10, 10, 10)
    voxels[0, 4:6, 5:9, 2] = 100
    volume = MetaTensor(voxels, affine=torch.eye(4))
    assert tuple(ForegroundCrop()(volume).shape) == (1, 2, 4, 1)
    assert tuple(ForegroundCrop(margin=2)(volume).shape) == (1, 6, 7, 5)


def test_volume_without_foreground_is_left_whole(caplog: pytest.LogCaptureFixture) -> None:
    assert tuple(ForegroundCrop(above=5.0)(MetaTensor(torch.zeros(1, 3, 4, 5))).shape) == (1, 3, 4, 5)
    assert "no foreground" in caplog.text


@pytest.mark.parametrize("size", [(4, 4), (0, 4, 4), (4, -1, 4)])
def test_impossible_sizes_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="three positive voxel counts"):
        CentreCropOrPad(size)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="'minimum' or 'edge'"):
        CentreCropOrPad((4, 4, 4), fill="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple is 0"):
        PadToMultiple(0)
    with pytest.raises(ValueError, match="margin is -1"):
        ForegroundCrop(margin=-1)


@pytest.mark.parametrize("fill", ["edge", -1.0])
@pytest.mark.parametrize("size", [(7, 10, 5), (4, 15, 6), (8, 7, 1), (1, 11, 9)])
def test_plain_arrays_are_cropped_and_padded_as_volumes_are(size: tuple[int, ...], fill: float | str) -> None:
    volume = numbered(np.eye(4))
    expected = CentreCropOrPad(size, fill=fill)(volume)[0].numpy()
    assert np.array_equal(centre_crop_or_pad(volume[0].numpy(), size, fill=fill), expected)


@pytest.mark.parametrize("size", [(8, 11, 6), (9, 15, 7), (10, 13, 5)])
def test_cropping_undoes_padding_by_even_and_odd_numbers_of_voxels(size: tuple[int, ...]) -> None:
    array = numbered(np.eye(4))[0].numpy()
    assert np.array_equal(centre_crop_or_pad(centre_crop_or_pad(array, size), SHAPE), array)


@pytest.mark.parametrize("fill", ["minimum", "edge", 3.0])
def test_channels_are_padded_as_if_each_were_alone(fill: str | float) -> None:
    volume = torch.stack([torch.rand(5, 4, 6) - 7, torch.rand(5, 4, 6) + 100])
    transform = CentreCropOrPad((8, 3, 9), fill=fill)  # type: ignore[arg-type]
    joined = transform(MetaTensor(volume))
    for channel, own in zip(volume, joined, strict=True):
        assert torch.equal(own.as_tensor(), transform(MetaTensor(channel[None]))[0].as_tensor())
