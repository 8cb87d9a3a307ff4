"""An interactive 3D viewer of cases with their labels, for a page that requests nothing from anywhere.

NiiVue (BSD-2-Clause; its licence text lies beside it in static/) draws NIfTI volumes with WebGL 2. Both the
program and the volumes are written into the page: images as 8-bit grey values, label maps as the numbers 1
to K, both downsampled to a size limit. The NIfTI headers are new and hold a spacing, nothing of the files'
own.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from scipy.ndimage import zoom

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.overview import COLOURS

LAYOUTS = (("three planes and 3D", 3), ("axial", 0), ("coronal", 1), ("sagittal", 2), ("3D", 4))


@dataclass(frozen=True, kw_only=True)
class ViewerCase:
    """One entry of the viewer's list.

    Args:
        name: shown to the reader; "real 1", never an identifier.
        image: (X, Y, Z) RAS+.
        labels: (X, Y, Z) values of the schema, or None.
        spacing_mm: edge lengths of a voxel.
    """

    name: str
    image: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None
    spacing_mm: Sequence[float]


def viewer_html(
    cases: Sequence[ViewerCase], *, schema: LabelSchema | None = None, max_voxels: int = 300_000
) -> str:
    """Write the viewer as a fragment of HTML, program, volumes and all.

    Args:
        cases: in the order of the list; the first is shown first.
        schema: names and colours of the structures; needed where a case has labels.
        max_voxels: of each volume; larger ones are downsampled, all axes by the same factor.

    Raises:
        ValueError: for no cases, or labels without a schema or of another shape than their image.
    """
    if not cases:
        raise ValueError("the viewer is given no case; at least one is needed")
    content = {
        "cases": [_describe(case, schema=schema, max_voxels=max_voxels) for case in cases],
        "colours": _colour_map(schema),
    }
    # JSON must not end the script element that holds it.
    program_data = json.dumps(content).replace("<", "\\u003c")
    layouts = "".join(f'<option value="{value}">{name}</option>' for name, value in LAYOUTS)
    return f"""<div id="viewer" data-state="starting">
<p><label>Case <select id="viewer-case"></select></label>
<label>View <select id="viewer-layout">{layouts}</select></label>
<label>Labels <input id="viewer-opacity" type="range" min="0" max="1" step="0.05" value="0.4"></label>
{_legend(schema)}</p>
<div id="viewer-frame"><canvas id="viewer-canvas" width="960" height="640"></canvas></div>
<p id="viewer-status">The viewer is starting.</p>
</div>
<script type="application/json" id="viewer-data">{program_data}</script>
<script>{_static("niivue.umd.js")}</script>
<script>{_static("viewer.js")}</script>"""


def grey_values(image: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Map an image's 0.5th to 99.5th percentile to 0..255."""
    array = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(array, (0.5, 99.5))
    return np.rint(255 * ((array - low) / max(high - low, 1e-12)).clip(0, 1)).astype(np.uint8)


def _describe(case: ViewerCase, *, schema: LabelSchema | None, max_voxels: int) -> dict[str, Any]:
    image = np.asarray(case.image)
    if case.labels is not None and (schema is None or np.shape(case.labels) != image.shape):
        raise ValueError(
            f"{case.name} has an image of {image.shape}, labels of {np.shape(case.labels)} and "
            f"{'a' if schema else 'no'} schema; labels need the image's shape and a schema"
        )
    factor = min((max_voxels / image.size) ** (1 / 3), 1.0)
    spacing = [edge / factor for edge in case.spacing_mm]
    entry: dict[str, Any] = {"name": case.name, "labels": None}
    entry["image"] = _nifti_base64(_shrink(grey_values(image), factor, order=1), spacing)
    if case.labels is not None and schema is not None:
        indices = schema.index_map(np.asarray(case.labels)).numpy().astype(np.uint8)
        entry["labels"] = _nifti_base64(_shrink(indices, factor, order=0), spacing)
    return entry


def _shrink(array: npt.NDArray[np.uint8], factor: float, *, order: int) -> npt.NDArray[np.uint8]:
    if factor == 1:
        return array
    return np.asarray(zoom(array, factor, order=order, grid_mode=True, mode="nearest"), dtype=np.uint8)


def _nifti_base64(array: npt.NDArray[np.uint8], spacing_mm: Sequence[float]) -> str:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -0.5 * (np.asarray(array.shape) - 1) * np.asarray(spacing_mm)
    content = nib.Nifti1Image(array, affine).to_bytes()
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def _colours(schema: LabelSchema) -> list[str]:
    return [
        schema.colours.get(value, COLOURS[place % len(COLOURS)]) for place, value in enumerate(schema.values)
    ]


def _colour_map(schema: LabelSchema | None) -> dict[str, list[Any]]:
    """Return NiiVue's table of label colours; index 0, the background, is transparent."""
    if schema is None:
        return {"R": [0], "G": [0], "B": [0], "A": [0], "I": [0], "labels": [""]}
    rgb = np.array([(0, 0, 0), *(to_rgb(colour) for colour in _colours(schema))])
    red, green, blue = np.rint(255 * rgb).astype(int).T.tolist()
    return {
        "R": red,
        "G": green,
        "B": blue,
        "A": [0] + [255] * schema.n_structures,
        "I": list(range(schema.n_structures + 1)),
        "labels": ["", *schema.structures.values()],
    }


def _legend(schema: LabelSchema | None) -> str:
    if schema is None:
        return ""
    return " ".join(
        f'<span class="swatch" style="background:{html.escape(colour)}"></span> {html.escape(name)}'
        for colour, name in zip(_colours(schema), schema.structures.values(), strict=True)
    )


def _static(name: str) -> str:
    text = files("medldm.evaluation.report").joinpath("static", name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError(f"static/{name} holds a text that would end its script element in the page")
    return text
