"""Draw real and synthetic cases side by side: three planes, label contours, one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.drawing import save_figure
from medldm.files import atomic_file

Case = tuple[npt.ArrayLike, npt.ArrayLike, Sequence[float]]
"""Image (X, Y, Z) RAS+, labels of the same shape, spacing in mm."""

COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")
"""Okabe and Ito's palette, told apart by colour-blind readers."""

ROWS = (("axial", 2, False), ("axial", 2, True), ("coronal", 1, True), ("sagittal", 0, True))
"""Plane, the axis it is normal to, and whether contours are drawn; the first row shows the bare image."""

MAX_LEGEND_ENTRIES = 12

# Inches.
_PANEL = 1.25
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.55, 0.12, 0.34, 0.24
_TITLE = 0.26
_GAP = 0.22  # between the real and the synthetic block


def draw_overview(
    real: Sequence[Case],
    synthetic: Sequence[Case],
    path: str | Path,
    *,
    schema: LabelSchema | None = None,
    max_cases: int = 8,
    title: str | None = None,
) -> Path:
    """Write one PNG: real cases above synthetic ones, a column for each.

    A column shows the bare axial plane, then three planes with the structures' contours. Columns pair up by
    position, so give a synthetic case the place of the real case whose label map it was made from. The
    planes pass through the middle of the labelled voxels (of the volume where there are none); the axial
    and coronal planes show the patient's left on the left. The grey window of each case runs from its
    0.5th to its 99.5th percentile; voxels are interpolated for display, contours are not.

    Args:
        real: cases as (image, labels, spacing_mm); may be empty where `synthetic` is not.
        synthetic: likewise.
        path: of the PNG; its folder is made.
        schema: names and colours of the structures; without it the values found are numbered.
        max_cases: columns at most, at least 1; later cases are left out.
        title: above everything.

    Returns:
        The path.

    Raises:
        ValueError: without any case, or for a case whose arrays or spacing do not fit together.
    """
    if max_cases < 1:
        raise ValueError(f"max_cases is {max_cases}; it must be at least 1")
    blocks = [
        (name, [_check_case(case, name=f"{name.lower()} case {index}") for index, case in enumerate(cases)])
        for name, cases in (("Real", real[:max_cases]), ("Synthetic", synthetic[:max_cases]))
        if len(cases)
    ]
    if not blocks:
        raise ValueError("there is no case to draw; give at least one real or synthetic case")
    colours = _choose_colours([labels for _, cases in blocks for _, labels, _ in cases], schema=schema)
    figure = _draw_figure(blocks, colours=colours, schema=schema, title=title)
    with atomic_file(path) as temporary:
        save_figure(figure, temporary)
    return Path(path)


_Checked = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], tuple[float, float, float]]


def _check_case(case: Case, *, name: str) -> _Checked:
    image, labels = np.asarray(case[0], dtype=np.float32), np.asarray(case[1]).astype(np.int64)
    spacing = tuple(float(edge) for edge in case[2])
    if image.ndim != 3 or image.shape != labels.shape:
        raise ValueError(
            f"{name} has an image of shape {image.shape} and labels of shape {labels.shape}; "
            "both must be the same (X, Y, Z)"
        )
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"{name} has the spacing {spacing}; three positive millimetres are needed")
    return image, labels, (spacing[0], spacing[1], spacing[2])


def _choose_colours(
    label_maps: Sequence[npt.NDArray[np.int64]], *, schema: LabelSchema | None
) -> dict[int, str]:
    """Give each structure that occurs a colour, the schema's where it has one."""
    found = sorted(set().union(*(set(np.unique(labels).tolist()) for labels in label_maps)) - {0})
    order = list(schema.values) if schema else found
    order += [value for value in found if value not in order]
    own = schema.colours if schema else {}
    return {value: own.get(value, COLOURS[order.index(value) % len(COLOURS)]) for value in found}


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where everything stands, in inches from the lower left corner."""

    n_blocks: int
    n_columns: int
    top: float

    @property
    def size(self) -> tuple[float, float]:
        panels = self.n_blocks * len(ROWS) * _PANEL + (self.n_blocks - 1) * _GAP
        return _LEFT + self.n_columns * _PANEL + _RIGHT, _BOTTOM + panels + self.top

    def y(self, *, block: int, row: float) -> float:
        """Return the lower edge of a row; halves are middles."""
        return self.size[1] - self.top - block * (len(ROWS) * _PANEL + _GAP) - (row + 1) * _PANEL

    def add_panel(self, figure: Figure, *, block: int, row: int, column: int) -> Axes:
        (width, height), edge = self.size, 0.985 * _PANEL
        x, y = _LEFT + column * _PANEL, self.y(block=block, row=row)
        return figure.add_axes((x / width, y / height, edge / width, edge / height))

    def write(self, figure: Figure, text: str, *, x: float, y: float, **style: Any) -> None:
        figure.text(x / self.size[0], y / self.size[1], text, **style)


def _draw_figure(
    blocks: Sequence[tuple[str, Sequence[_Checked]]],
    *,
    colours: dict[int, str],
    schema: LabelSchema | None,
    title: str | None,
) -> Figure:
    layout = _Layout(
        n_blocks=len(blocks),
        n_columns=max(len(cases) for _, cases in blocks),
        top=_TOP + (_TITLE if title else 0.0),
    )
    figure = Figure(figsize=layout.size, dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    for block, (_, cases) in enumerate(blocks):
        for row, (_, axis, has_contours) in enumerate(ROWS):
            for column, case in enumerate(cases):
                panel = layout.add_panel(figure, block=block, row=row, column=column)
                _draw_plane(panel, case, axis=axis, colours=colours if has_contours else {})
    _write_headings(figure, layout, names=[name for name, _ in blocks], title=title)
    _draw_legend(figure, colours=colours, schema=schema)
    return figure


def _draw_plane(panel: Axes, case: _Checked, *, axis: int, colours: dict[int, str]) -> None:
    image, labels, spacing = case
    low, high = np.nanpercentile(image, (0.5, 99.5))
    index = _middle_of_labels(labels)[axis]
    across, up = (other for other in range(3) if other != axis)
    extent = (0.0, image.shape[across] * spacing[across], 0.0, image.shape[up] * spacing[up])
    plane = np.take(image, index, axis=axis).T
    panel.imshow(
        plane,
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        origin="lower",
        extent=extent,
        interpolation="bicubic",
    )
    contours = np.take(labels, index, axis=axis).T
    x = (np.arange(image.shape[across]) + 0.5) * spacing[across]
    y = (np.arange(image.shape[up]) + 0.5) * spacing[up]
    for value, colour in colours.items():
        mask = contours == value
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            panel.contour(x, y, mask.astype(np.float32), levels=[0.5], colors=colour, linewidths=0.55)
    # The plane stands in the middle of a black square, the same number of millimetres wide and high.
    side = max(extent)
    panel.set_xlim((extent[1] - side) / 2, (extent[1] + side) / 2)
    panel.set_ylim((extent[3] - side) / 2, (extent[3] + side) / 2)
    panel.set(facecolor="black", xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _middle_of_labels(labels: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """Return the labelled voxels' centre of mass, or the middle of an unlabelled volume."""
    indices = np.nonzero(labels)
    if not len(indices[0]):
        return labels.shape[0] // 2, labels.shape[1] // 2, labels.shape[2] // 2
    x, y, z = (round(float(each.mean())) for each in indices)
    return x, y, z


def _write_headings(figure: Figure, layout: _Layout, *, names: Sequence[str], title: str | None) -> None:
    for block, name in enumerate(names):
        middle = layout.y(block=block, row=len(ROWS) / 2 - 1)
        layout.write(figure, name, x=0.14, y=middle, rotation=90, va="center", weight="bold", size=11)
        for row, (plane, _, _) in enumerate(ROWS):
            y = layout.y(block=block, row=row - 0.5)
            layout.write(figure, plane, x=0.38, y=y, rotation=90, va="center", size=7)
    top = layout.y(block=0, row=-1)
    for column in range(layout.n_columns):
        x = _LEFT + (column + 0.49) * _PANEL
        layout.write(figure, f"case {column + 1}", x=x, y=top + 0.05, ha="center", size=7)
    if title:
        layout.write(figure, title, x=_LEFT, y=top + _TOP + 0.03, size=10, weight="bold")


def _draw_legend(figure: Figure, *, colours: dict[int, str], schema: LabelSchema | None) -> None:
    names = dict(schema.structures) if schema else {}
    shown = list(colours.items())[:MAX_LEGEND_ENTRIES]
    handles = [Line2D([], [], color=colour, linewidth=1.6) for _, colour in shown]
    texts = [names.get(value, f"structure {value}") for value, _ in shown]
    if hidden := len(colours) - len(shown):
        handles.append(Line2D([], [], linewidth=0))
        texts.append(f"and {hidden} more")
    if handles:
        figure.legend(
            handles, texts, loc="lower center", ncols=min(len(handles), 6), frameon=False, fontsize=7
        )
