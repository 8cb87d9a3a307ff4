"""What every bundle has in common: valid metadata, and knobs that stand at the top."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import verify_metadata

import medldm

BUNDLES = sorted(path for path in (Path(medldm.__file__).parent / "bundles").iterdir() if path.is_dir())
BUNDLES = [path for path in BUNDLES if (path / "configs").is_dir()]
WORKFLOWS = [file for bundle in BUNDLES for file in sorted((bundle / "configs").glob("*.yaml"))]

pytestmark = pytest.mark.filterwarnings("ignore:No hash value provided")


def name_of(path: Path) -> str:
    return path.name if path.is_dir() else f"{path.parents[1].name}-{path.stem}"


def test_both_bundles_and_all_their_workflows_are_looked_at() -> None:
    assert [bundle.name for bundle in BUNDLES] == ["labelmap_ldm", "mri_label_ldm"]
    assert len(WORKFLOWS) >= 8


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
