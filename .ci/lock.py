"""Write the hashes of the wheels that constraints.txt names into requirements.lock, for this interpreter.

    for each of Python 3.10, 3.11, 3.12:  python .ci/lock.py

Hashes of other interpreters stay as they are, unless the version in constraints.txt has changed; so each of
the three is run after every change of constraints.txt, on Linux x86-64. The files come from the index that
pip is set up with; no address is written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONSTRAINTS = REPOSITORY / "constraints.txt"
LOCK = REPOSITORY / "requirements.lock"
HEAD = """\
# The wheels of constraints.txt for Linux x86-64 and Python 3.10 to 3.12, by their SHA-256; torch is its CPU
# build. Written by .ci/lock.py; used by `make locked`.
"""


def read_pins(file: Path) -> dict[str, set[str]]:
    """Return requirement line (name==version and marker) -> hashes."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ") if file.exists() else ""
    pins: dict[str, set[str]] = {}
    for line in text.splitlines():
        requirement = line.split("#")[0].split("--hash")[0].strip()
        if requirement:
            pins[requirement] = set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line))
    return pins


def hashes_here() -> dict[str, str]:
    """Return name==version -> hash of the wheel that pip takes for this interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:", "--quiet"]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "--report", report, "-r", CONSTRAINTS],
            check=True,
        )
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {}
    for entry in entries:
        name = re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower()
        version = entry["metadata"]["version"].split("+")[0]
        found[f"{name}=={version}"] = "sha256:" + entry["download_info"]["archive_info"]["hashes"]["sha256"]
    return found


def main() -> None:
    """Merge this interpreter's hashes into the lock."""
    pins, old, here = read_pins(CONSTRAINTS), read_pins(LOCK), hashes_here()
    lines = [HEAD]
    for requirement in pins:
        hashes = old.get(requirement, set())
        if (pin := requirement.split(";")[0].strip()) in here:
            hashes.add(here[pin])
        lines.append(" \\\n".join([requirement, *(f"    --hash={each}" for each in sorted(hashes))]) + "\n")
    LOCK.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
