"""Convert many cases, in processes of their own, so that a decoder that crashes costs one case."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext

from tqdm import tqdm

from medldm.data.preparation.cases import CaseOutcome, CasePlan, convert_case
from medldm.data.preparation.options import PrepareOptions

logger = logging.getLogger(__name__)


def convert_cases(plans: Sequence[CasePlan], options: PrepareOptions) -> Iterator[CaseOutcome]:
    """Convert cases, in processes where there are several."""
    workers = min(options.workers or min(os.cpu_count() or 1, 8), max(1, len(plans)))
    with tqdm(
        total=len(plans), desc="prepare", unit="case", disable=None if options.progress else True
    ) as bar:
        outcomes = map(convert_case, plans) if workers == 1 else _run_parallel(plans, workers=workers)
        for outcome in outcomes:
            bar.update()
            for note in outcome.record.notes:
                logger.warning("%s: %s", outcome.record.id, note)
            if outcome.reason:
                logger.warning("%s was refused: %s", outcome.record.id, outcome.reason)
            yield outcome


def _run_parallel(plans: Sequence[CasePlan], *, workers: int) -> Iterator[CaseOutcome]:
    """Convert in parallel; a case that kills its process (a decoder may) is tried alone and then refused."""
    broken: list[CasePlan] = []
    context = _process_context()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(convert_case, plan): plan for plan in plans}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                broken.append(futures[future])
    for plan in broken:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(convert_case, plan).result()
            except BrokenProcessPool:
                yield CaseOutcome(
                    record=plan.record, reason="its decoder crashed the process; restore the file"
                )


def _process_context() -> BaseContext:
    """Start workers from a server that has imported the package once, where the system has one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["medldm.data.preparation.cases"])
    return context
