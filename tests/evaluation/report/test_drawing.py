"""Names are drawn as they are, and the figures of a report are on disk before its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.drawing import save_figure
from medldm.evaluation.report.files import write_report
from medldm.evaluation.report.overview import draw_overview

FORMULAS = [r"a $\frac{ $ b", "$", "$$", "$a_$", r"$\undefined$", "a_b^c $x", r"\$ 5 $"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_begins_no_formula(tmp_path: Path, name: str) -> None:
    figure = Figure()
    panel = figure.add_subplot(title=name, xlabel=name)
    panel.plot([0, 1], label=name)
    panel.legend(title=name)
    panel.set_xticks([0, 1], [name, name])
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_the_overview_draws_names_as_they_are(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), dtype=np.int64)
    labels[2:6, 2:6, 2:6] = 1
    case = (labels.astype(np.float32), labels, (1.0, 1.0, 1.0))
    schema = LabelSchema(structures={1: FORMULAS[0]})
    assert draw_overview([case], [], tmp_path / "a.png", schema=schema).is_file()


def test_the_figures_are_on_disk_where_a_picture_fails(tmp_path: Path) -> None:
    def fail() -> str:
        raise RuntimeError("a picture")

    with pytest.raises(RuntimeError, match="a picture"):
        write_report(tmp_path, {"figures": [1.5]}, fail)
    assert json.loads((tmp_path / "report.json").read_text()) == {"figures": [1.5]}
    assert not (tmp_path / "report.html").exists()
    write_report(tmp_path, {"figures": []}, lambda: "page")
    assert (tmp_path / "report.html").read_text() == "page"
