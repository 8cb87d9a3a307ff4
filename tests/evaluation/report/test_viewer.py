"""The viewer: what it embeds, and that it draws in a browser without asking anyone for anything."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.html import CONTENT_POLICY
from medldm.evaluation.report.viewer import ViewerCase, grey_values, viewer_html
from tests.evaluation.report.browser import open_page

POLICY = "Content-Security-Policy"
STATE = """(() => {
  const state = document.getElementById("viewer").dataset.state;
  return state === "starting" ? "" : state;
})()"""
SCHEMA = LabelSchema(structures={3: "core", 9: "shell"}, colours={9: "#00ff00"})


def make_case(shape: tuple[int, int, int] = (24, 20, 22), name: str = "synthetic 1") -> ViewerCase:
    distance = np.linalg.norm(np.indices(shape).T - np.asarray(shape) / 2, axis=-1).T
    labels = np.where(distance < 4, 3, np.where(distance < 7, 9, 0))
    image = (100 * np.exp(-(distance**2) / 60)).astype(np.float32)
    return ViewerCase(name=name, image=image, labels=labels, spacing_mm=(1.0, 1.5, 2.0))


def read_content(page: str) -> dict:
    match = re.search(r'id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match.group(1))


def read_volume(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def write_page(folder: Path, body: str, *, head: str = "") -> Path:
    style = "<style>body{margin:0}#viewer-frame,#viewer-canvas{width:400px;height:400px}</style>"
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><html><head><meta charset="utf-8">{head}{style}</head><body>{body}</body></html>'
    )
    return page


def test_volumes_come_back_as_they_were_with_spacing_and_nothing_else() -> None:
    case = make_case()
    entry = read_content(viewer_html([case], schema=SCHEMA))["cases"][0]
    image, labels = read_volume(entry["image"]), read_volume(entry["labels"])
    np.testing.assert_array_equal(np.asarray(image.dataobj), grey_values(case.image))
    np.testing.assert_array_equal(np.asarray(labels.dataobj), SCHEMA.index_map(case.labels).numpy())
    assert image.header.get_zooms() == (1.0, 1.5, 2.0)
    assert not bytes(image.header["descrip"]).strip(b"\0")
    np.testing.assert_array_equal(image.affine, labels.affine)


def test_colours_are_those_of_the_schema() -> None:
    colours = read_content(viewer_html([make_case()], schema=SCHEMA))["colours"]
    assert colours["labels"] == ["", "core", "shell"]
    assert [colours[channel][2] for channel in "RGBA"] == [0, 255, 0, 255]
    assert colours["A"][0] == 0


def test_large_volumes_are_downsampled_to_the_limit_and_keep_their_extent() -> None:
    entry = read_content(viewer_html([make_case((48, 40, 44))], schema=SCHEMA, max_voxels=10_560))["cases"][0]
    image = read_volume(entry["image"])
    assert image.shape == (24, 20, 22)
    np.testing.assert_allclose(image.header.get_zooms(), (2.0, 3.0, 4.0))
    assert set(np.unique(read_volume(entry["labels"]).dataobj)) == {0, 1, 2}


def test_names_cannot_end_the_script() -> None:
    case = make_case(name="</script><script>alert(1)</script>")
    page = viewer_html([case], schema=SCHEMA)
    assert "<script>alert(1)" not in page
    assert read_content(page)["cases"][0]["name"] == case.name


def test_labels_without_schema_and_no_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="no schema"):
        viewer_html([make_case()])
    with pytest.raises(ValueError, match="no case"):
        viewer_html([])


def test_the_vendored_program_comes_with_its_licences() -> None:
    text = (
        files("medldm.evaluation.report").joinpath("static", "niivue.LICENSE.txt").read_text(encoding="utf-8")
    )
    assert "Copyright (c) 2021, Niivue" in text
    for library in ("fflate", "gl-matrix", "nifti-reader-js", "zarrita", "numcodecs"):
        assert library in text


@pytest.mark.slow
def test_a_browser_draws_the_volume_and_requests_nothing(tmp_path: Path) -> None:
    body = viewer_html([make_case()], schema=SCHEMA)
    page = write_page(tmp_path, body, head=f'<meta http-equiv="{POLICY}" content="{CONTENT_POLICY}">')
    seen = open_page(page, tmp_path / "profile", until=STATE, size=(420, 520))
    assert seen.state == "ready"
    assert not seen.problems
    assert not seen.requests
    frame = np.asarray(Image.open(io.BytesIO(seen.screenshot)).convert("RGB")).astype(int)[80:440, 20:380]
    is_green = (frame[..., 1] > frame[..., 0] + 30) & (frame[..., 1] > frame[..., 2] + 30)
    assert frame.std() > 5, "the canvas is blank"
    assert is_green.sum() > 50, "the labels are not drawn"


@pytest.mark.slow
def test_the_browser_of_these_tests_sees_requests_and_errors(tmp_path: Path) -> None:
    script = 'new Image().src = "https://example.org/x.png"; console.error("wrong"); window.done = 1'
    body = f"<script>{script}</script>"
    seen = open_page(write_page(tmp_path, body), tmp_path / "profile", until="window.done", size=(100, 100))
    assert seen.requests == ["https://example.org/x.png"]
    assert "wrong" in seen.problems
    assert np.asarray(Image.open(io.BytesIO(seen.screenshot)).convert("L")).std() < 5
