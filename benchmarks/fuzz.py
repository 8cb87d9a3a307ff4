"""Mutate small files of every kind that is read: does each reader read or refuse them, in bounded time?

    python benchmarks/fuzz.py                                 # 4 seconds for each reader
    python benchmarks/fuzz.py --seconds 600 --seed 1          # at length
    python benchmarks/fuzz.py --readers nrrd mha --keep findings

The corpora are made in code. A mutation that reaches lines of the package that none before has reached joins
the corpus, so that the search goes deeper than the first check. A finding is an exception that is none of the
package's, more than 2 seconds, or 512 MiB more memory for one file; `--keep` writes its file. One seed gives
the same mutations, but not as many of them on a slower machine.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_corpora import READERS, TOKENS, Reader
from pages import table

from medldm.errors import MedldmError

PACKAGE = Path(__file__).resolve().parents[1]
ROOMS = (str(PACKAGE / "medldm"), str(PACKAGE / "transforms"))
MAX_SECONDS, MAX_BYTES, MAX_LENGTH = 2.0, 512 * 2**20, 2**16
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\xc0\x7f",
)


@dataclass
class Outcome:
    """What became of the mutations for one reader."""

    n_files: int = 0
    n_read: int = 0
    n_corpus: int = 0
    seconds: float = 0.0
    lines: set[tuple[str, int]] = field(default_factory=set)
    findings: dict[str, bytes] = field(default_factory=dict)


def mutate(content: bytes, corpus: list[bytes], choose: random.Random) -> bytes:
    """Return a file with up to four changes: bits, bytes, tokens, cuts, copies, parts of another file."""
    changed = bytearray(content)
    for _ in range(choose.choice((1, 1, 1, 2, 4))):
        place = choose.randrange(len(changed) + 1)
        end = min(len(changed), place + choose.choice((1, 2, 4, 8, 64)))
        kind = choose.randrange(8)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << choose.randrange(8)
        elif kind == 1:
            changed[place:end] = choose.choice(INTERESTING)
        elif kind == 2:
            changed[place:place] = choose.choice(TOKENS)
        elif kind == 3:
            changed[place:end] = choose.choice(TOKENS)
        elif kind == 4:
            del changed[place:end]
        elif kind == 5:
            changed[place:place] = changed[place:end] * choose.choice((1, 2, 16))
        elif kind == 6:
            other = choose.choice(corpus)
            start = choose.randrange(len(other) + 1)
            changed[place:end] = other[start : start + choose.choice((1, 8, 64, len(other)))]
        elif choose.random() < 0.3:
            del changed[place:]
    return bytes(changed[:MAX_LENGTH])


def fuzz(reader: Reader, *, seconds: float, seed: int, folder: Path) -> Outcome:
    """Mutate the files of one reader for so long."""
    corpus, outcome, choose = list(reader.corpus()), Outcome(), random.Random(f"{seed} {reader.name}")
    start = time.monotonic()
    for content in corpus:
        try_file(reader, content, outcome, folder)
    if outcome.n_read != len(corpus):
        raise RuntimeError(f"{reader.name} does not read its own files: {list(outcome.findings)}")
    while time.monotonic() - start < seconds:
        content = mutate(choose.choice(corpus), corpus, choose)
        if try_file(reader, content, outcome, folder):
            corpus.append(content)
    outcome.n_corpus, outcome.seconds = len(corpus), time.monotonic() - start
    return outcome


def try_file(reader: Reader, content: bytes, outcome: Outcome, folder: Path) -> bool:
    """Read one file; return whether it reached lines that none before has reached."""
    path = folder / reader.file
    path.write_bytes(content)
    lines: set[tuple[str, int]] = set()
    before, start = peak_bytes(), time.monotonic()
    finding = ""
    sys.settrace(tracer(lines))
    try:
        reader.read(path)
        outcome.n_read += 1
    except MedldmError:
        pass
    except reader.allowed:
        pass
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        finding = f"{type(error).__name__} in {place}"
    finally:
        sys.settrace(None)
    outcome.n_files += 1
    if time.monotonic() - start > MAX_SECONDS:
        finding = finding or "slow"
    if peak_bytes() - before > MAX_BYTES:
        finding = finding or "memory"
    if finding:
        outcome.findings.setdefault(finding, content)
    is_new = not lines <= outcome.lines
    outcome.lines |= lines
    return is_new


def tracer(lines: set[tuple[str, int]]) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that gathers the lines of the package that run."""

    def trace_line(frame: FrameType, event: str, argument: Any) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace_line

    def trace_call(frame: FrameType, event: str, argument: Any) -> Any:
        return trace_line if frame.f_code.co_filename.startswith(ROOMS) else None

    return trace_call


def peak_bytes() -> int:
    """Return the most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Fuzz, print a table, return 1 for findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = [reader.name for reader in READERS]
    parser.add_argument("--readers", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, n_findings = [], 0
    for reader in READERS:
        if reader.name not in options.readers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(reader, seconds=options.seconds, seed=options.seed, folder=Path(folder))
        n_findings += len(found.findings)
        rows.append(
            (
                reader.name,
                f"{found.n_files:,}",
                f"{found.seconds / 60:.2f}",
                f"{found.n_read / found.n_files:.0%}",
                str(found.n_corpus),
                str(len(found.lines)),
                "; ".join(found.findings) or "none",
            )
        )
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for number, content in enumerate(found.findings.values()):
                (options.keep / f"{reader.name}_{number}{Path(reader.file).suffix}").write_bytes(content)
    header = ("reader", "files", "minutes", "read", "corpus", "lines of the package", "findings")
    sys.stdout.write(table(header, rows) + os.linesep)
    return int(n_findings > 0)


if __name__ == "__main__":
    sys.exit(main())
