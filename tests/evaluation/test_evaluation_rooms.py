"""Inside the evaluation, too, rooms and modules import in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

import medldm.evaluation

ROOT = Path(medldm.evaluation.__file__).parent
LINE = ["errors", "resources", "metrics", "cases", "features", "segmenter", "volume_classifier", "sections"]
LINE += [
    "config",
    "stages",
    "results",
    "collector",
    "collect",
    "report",
    "channel_reports",
    "evaluate",
    "quality_gate",
]
"""Each imports from those before it: measures know of no case, cases of no feature, sections of no report."""


def find_breaches(sources: dict[str, str]) -> list[str]:
    """Return the imports against the line, of sources by the name of their module below the evaluation."""
    breaches = []
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("medldm.evaluation."):
                imported = f"{node.module}.{node.names[0].name}".split(".")[2]
                own = name.split(".")[0]
                if LINE.index(imported) > LINE.index(own):
                    breaches.append(f"{name} imports {imported}")
    return breaches


def test_the_evaluation_imports_from_left_to_right() -> None:
    files = [file for file in ROOT.rglob("*.py") if file.name != "__init__.py"]
    sources = {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text() for file in files}
    assert len(sources) > 40
    assert find_breaches(sources) == []


def test_an_import_against_the_line_is_found() -> None:
    source = "from medldm.evaluation.sections.privacy import joint_power"
    assert find_breaches({"metrics.copy_rule": source, "report.page": source}) == [
        "metrics.copy_rule imports sections"
    ]
