"""Resampling transforms carry the affine along and can be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Spacingd

from medldm.transforms import ResampleToSpacing, ResampleToSpacingd


def smooth_volume(affine: np.ndarray, shape: tuple[int, ...] = (14, 12, 10)) -> MetaTensor:
    axes = np.meshgrid(*[np.linspace(0, 3, size) for size in shape], indexing="ij")
    voxels = np.sin(axes[0]) + np.cos(axes[1]) * axes[2]
    return MetaTensor(torch.from_numpy(voxels[None].astype(np.float32)), affine=torch.from_numpy(affine))


def labels_like(volume: MetaTensor) -> MetaTensor:
    return MetaTensor((volume.as_tensor() > 1).float() * 3, affine=volume.affine)


def test_result_has_the_spacing_and_keeps_the_world_of_a_linear_function(oblique: np.ndarray) -> None:
    shape = (9, 8, 7)
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1)
    world = index @ oblique[:3, :3].T + oblique[:3, 3]
    plane = (world @ [0.3, -0.2, 0.5])[None].astype(np.float32)
    volume = MetaTensor(torch.from_numpy(plane), affine=torch.from_numpy(oblique))
    result = ResampleToSpacing((0.8, 0.9, 1.1))(volume)
    affine = result.affine.numpy()
    np.testing.assert_allclose(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), [0.8, 0.9, 1.1])
    index = np.stack(np.meshgrid(*[np.arange(size) for size in result.shape[1:]], indexing="ij"), axis=-1)
    expected = (index @ affine[:3, :3].T + affine[:3, 3]) @ [0.3, -0.2, 0.5]
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(result[0].numpy()[inner], expected[inner], atol=1e-4)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), 1.00001])
def test_spacing_already_met_leaves_voxels_and_affine_to_the_bit(spacing: object) -> None:
    volume = smooth_volume(np.eye(4))
    result = ResampleToSpacing(spacing)(volume)  # type: ignore[arg-type]
    assert torch.equal(result.as_tensor(), volume.as_tensor())
    assert torch.equal(result.affine, volume.affine)
    assert not volume.applied_operations


@pytest.mark.parametrize("interpolation", ["linear", "bspline"])
def test_inverse_restores_shape_affine_and_nearly_the_voxels(oblique: np.ndarray, interpolation: str) -> None:
    volume = smooth_volume(oblique)
    transform = ResampleToSpacing(0.6, interpolation=interpolation)  # type: ignore[arg-type]
    back = transform.inverse(transform(volume))
    assert back.shape == volume.shape
    np.testing.assert_array_equal(back.affine.numpy(), oblique)
    inner = (0, *(slice(2, -2),) * 3)
    assert float((back - volume).as_tensor()[inner].abs().max()) < 0.05


def test_dictionary_form_treats_label_keys_as_labels() -> None:
    volume = smooth_volume(np.diag([1.0, 1.0, 2.0, 1.0]))
    case = {"image": volume, "seg": labels_like(volume)}
    chain = Compose([ResampleToSpacingd(["image", "seg"], 0.7, label_keys=["seg"])])
    result = chain(case)
    assert set(result["seg"].unique().tolist()) == {0.0, 3.0}
    assert len(result["image"].unique()) > 100
    assert torch.equal(result["image"].affine, result["seg"].affine)
    back = chain.inverse(result)
    assert back["seg"].shape == volume.shape
    assert float((back["seg"] == case["seg"]).float().mean()) > 0.98


def test_first_voxel_alignment_agrees_with_monai() -> None:
    volume = smooth_volume(np.diag([1.3, 1.2, 1.6, 1.0]), (24, 21, 18))
    ours = ResampleToSpacingd(["a"], 1.1, align="first_voxel", anti_aliasing=False)({"a": volume})["a"]
    theirs = Spacingd(["a"], (1.1, 1.1, 1.1), mode="bilinear", padding_mode="border")({"a": volume})["a"]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours.affine.numpy(), theirs.affine.numpy(), atol=1e-9)


@pytest.mark.parametrize("spacing", [0.0, -1.0, 51.0, (1.0, 1.0), float("nan")])
def test_impossible_spacing_is_refused(spacing: object) -> None:
    with pytest.raises(ValueError, match=r"0\.01 to 50 mm"):
        ResampleToSpacing(spacing)  # type: ignore[arg-type]


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="'linear', 'bspline'"):
        ResampleToSpacing(1.0, interpolation="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'centre', 'first_voxel'"):
        ResampleToSpacing(1.0, align="corner")  # type: ignore[arg-type]
