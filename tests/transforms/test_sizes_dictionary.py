"""Image and label map get the same window; label maps are filled with background."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medldm.transforms import CentreCropOrPadd, ForegroundCropd, PadToMultipled


def case() -> dict[str, MetaTensor]:
    image = torch.full((1, 6, 8, 10), -3.0)
    image[0, 2:4, 3:6, 4:9] = 50
    label = torch.ones(1, 6, 8, 10)
    return {"image": MetaTensor(image), "label": MetaTensor(label)}


def test_label_maps_are_padded_with_background_and_images_with_their_minimum() -> None:
    for transform in (
        CentreCropOrPadd(["image", "label"], (8, 8, 12)),
        PadToMultipled(["image", "label"], 16, fill="minimum"),
    ):
        result = transform(case())
        assert float(result["label"][0, -1, 0, 0]) == 0
        assert float(result["image"][0, -1, 0, 0]) == -3


def test_foreground_of_one_key_crops_all_keys() -> None:
    result = ForegroundCropd(["image", "label"], source_key="image", margin=1)(case())
    assert tuple(result["image"].shape) == tuple(result["label"].shape) == (1, 4, 5, 7)
    assert torch.equal(result["image"].affine, result["label"].affine)


def test_label_map_as_source_takes_everything_over_background() -> None:
    data = case()
    data["label"] = MetaTensor((data["image"] > 0).float() * 7)
    result = ForegroundCropd(["image", "label"], source_key="label")(data)
    assert tuple(result["image"].shape) == (1, 2, 3, 5)


def test_chain_is_undone_through_compose() -> None:
    keys = ["image", "label"]
    chain = Compose(
        [ForegroundCropd(keys, margin=2), CentreCropOrPadd(keys, (8, 8, 8)), PadToMultipled(keys, 16)]
    )
    back = chain.inverse(chain(case()))
    assert torch.equal(back["image"].as_tensor(), case()["image"].as_tensor())
    assert tuple(back["label"].shape) == (1, 6, 8, 10)
