"""What every bundle has in common: valid metadata, and knobs that stand at the top."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from monai.bundle import verify_metadata

import medldm
from medldm.bundle_sandbox.parser import CheckedParser

BUNDLES = sorted(path for path in (Path(medldm.__file__).parent / "bundles").iterdir() if path.is_dir())
BUNDLES = [path for path in BUNDLES if (path / "configs").is_dir()]
WORKFLOWS = [file for bundle in BUNDLES for file in sorted((bundle / "configs").glob("*.yaml"))]

pytestmark = pytest.mark.filterwarnings("ignore:No hash value provided")


def name_of(path: Path) -> str:
    return path.name if path.is_dir() else f"{path.parents[1].name}-{path.stem}"


def test_all_bundles_and_all_their_workflows_are_looked_at() -> None:
    assert [bundle.name for bundle in BUNDLES] == ["ct_label_ldm", "labelmap_ldm", "mri_label_ldm"]
    assert len(WORKFLOWS) >= 14


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_metadata_is_valid(bundle: Path) -> None:
    verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"),
        filepath=str(bundle / "docs" / "metadata_schema.json"),
    )


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_metadata_names_the_version_of_the_package(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"]["medldm"] == metadata["version"] == medldm.__version__


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name_of)
def test_the_knobs_stand_at_the_top_and_hold_values_only(workflow: Path) -> None:
    top, _ = workflow.read_text().split("# ---- what follows")
    assert "_target_" not in top


DIFFERING = {
    "train_autoencoder": {
        "schema",
        "space",
        "n_channels",
        "network_def",
        "loss",
        "discriminator_def",
        "discriminator",
    },
    "train_diffusion": {"schema", "encoder_of_texts", "model", "texture", "afterwards"},
}
DIFFERING_PARTS = {
    "cohort": {"require_labels"},
    "start": {"allow_other_intensity"},
    "start_plan": {"schema", "channels", "intensity"},
    "augmenter": {"image_intensity"},
    "config": {"region_weights", "latent_scaling"},
    "training": {"discriminator", "make_evaluator", "preview", "extend_card"},
    "training::config": {"discriminator_learning_rate", "sufficient_psnr"},
    "training::recipe": {
        *("class_balance", "fit_texture", "texture_noise_level"),
        *("decoder_adversarial_share", "decoder_adversarial_weight", "decoder_adaptive_weight"),
    },
    "decoder::config": {"adversarial_share", "adversarial_weight", "adaptive_weight"},
    "train": {"inferer"},
    "train::preprocessing": {"_target_", "schema", "text_encoder"},
    "train::preprocessing::transforms": {"_target_", "schema"},
    "validate::preprocessing": {"_target_", "schema"},
}
"""Where volumes and label maps differ below the knobs: the parts that a training is given."""


def common_part(content: dict, key: str = "", *, leave_out: Collection[str] = ()) -> dict:
    left_out = {*leave_out, *DIFFERING_PARTS.get(key, ())}
    common = {}
    for name, value in content.items():
        if name not in left_out:
            inner = f"{key}::{name}" if key else name
            common[name] = common_part(value, inner) if isinstance(value, dict) else value
    return common


@pytest.mark.parametrize("workflow", ["train_autoencoder", "train_diffusion"])
def test_the_trainings_of_maps_and_images_are_the_same_but_for_their_parts(workflow: str) -> None:
    """Knobs that both have say the same, their values apart, which are each bundle's own."""
    knobs, rest = [], []
    for bundle in (bundle for bundle in BUNDLES if bundle.name in ("labelmap_ldm", "mri_label_ldm")):
        top, below = (bundle / "configs" / f"{workflow}.yaml").read_text().split("# ---- what follows")
        knobs.append(list(yaml.safe_load(top)))
        content = yaml.safe_load("#" + below)
        # The loss of label maps weighs classes that it has counted: not before the volumes are to be read.
        content["initialize"] = [each for each in content["initialize"] if each != "@loss#config"]
        rest.append(common_part(content, leave_out=DIFFERING[workflow]))
    assert rest[0] == rest[1]
    assert rest[0]["run"] and rest[0]["training"]["run"]
    labels, images = knobs
    shared = [name for name in images if name in labels]
    assert shared == [name for name in labels if name in images]
    assert len(shared) >= 0.7 * len(images)


CT_VALUES = {
    "train_autoencoder": {
        "spacing_mm",
        "size",
        "intensity",
        "outside_value",
        "down_channels",
        "latent_channels",
    },
    "train_diffusion": {
        "image_intensity",
        "structure_dropout",
        "zero_terminal_snr",
    },
    "evaluate": {"intensity"},
    "inference": set(),
    "edit": set(),
    "multi_gpu": set(),
}
"""Knobs of which ct_label_ldm has values of its own."""


@pytest.mark.parametrize("workflow", CT_VALUES)
def test_the_bundle_of_ct_is_that_of_mri_but_for_some_values(workflow: str) -> None:
    """A bundle holds all of itself, for MONAI's model zoo: the copies are kept equal here."""
    ct, mri = (
        (bundle / "configs" / f"{workflow}.yaml").read_text()
        for bundle in BUNDLES
        if bundle.name in ("ct_label_ldm", "mri_label_ldm")
    )
    marker = "# ---- what follows"
    assert ct.partition(marker)[1:] == mri.partition(marker)[1:]
    of_ct, of_mri = (yaml.safe_load(text.partition(marker)[0]) for text in (ct, mri))
    assert list(of_ct) == list(of_mri)
    assert {name for name, value in of_ct.items() if value != of_mri[name]} == CT_VALUES[workflow]


@pytest.mark.parametrize("part", ["LICENSE", "configs/logging.conf", "docs/metadata_schema.json"])
def test_files_that_all_bundles_have_are_the_same(part: str) -> None:
    assert len({(bundle / part).read_bytes() for bundle in BUNDLES}) == 1


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
@pytest.mark.parametrize("workflow", ["train_autoencoder", "train_diffusion"])
def test_every_knob_reaches_something(bundle: Path, workflow: str) -> None:
    top, below = (bundle / "configs" / f"{workflow}.yaml").read_text().split("# ---- what follows")
    for name in yaml.safe_load(top):
        assert re.search(rf"@{name}\b", below + top.replace(f"{name}:", "")), name


def test_the_overlays_of_all_bundles_are_the_same() -> None:
    texts = {(bundle / "configs" / "multi_gpu.yaml").read_text() for bundle in BUNDLES}
    assert len(texts) == 1


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name_of)
def test_medldm_run_lets_every_workflow_of_a_bundle_pass(workflow: Path) -> None:
    """The overlay comes with a workflow, whose first step it takes the place of."""
    under = [workflow.with_name("train_diffusion.yaml")] if workflow.stem == "multi_gpu" else []
    parser = CheckedParser(folders=[workflow.parent], roots=[workflow.parents[1].resolve()])
    parser.read_config([str(file) for file in (*under, workflow)])
    parser.update({"bundle_root": str(workflow.parents[1])})
    parser.resolve_macro_and_relative_ids()
