"""Save a figure whose texts are shown as they are: "$" in a name begins no formula."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from matplotlib.figure import Figure
from matplotlib.text import Text


def save_figure(figure: Figure, file: str | Path | IO[bytes]) -> None:
    """Write a figure as a PNG."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(file, format="png", metadata={"Software": None})
