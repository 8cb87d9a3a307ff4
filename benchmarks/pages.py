"""Put measured tables into pages of the documentation."""

from __future__ import annotations

from pathlib import Path


def write_between_marks(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks `<!-- name: start -->` and `<!-- name: end -->` of a page."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    head, mark, rest = page.read_text(encoding="utf-8").partition(start)
    _, other, tail = rest.partition(end)
    if not (mark and other):
        raise ValueError(f"{page} has no lines {start} and {end}: the table goes between them")
    page.write_text(f"{head}{start}\n{text.strip()}\n{end}{tail}", encoding="utf-8")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
