"""How an evaluation goes through its sections: a progress bar, and refusals that become results."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.sections.metric_result import SECTIONS, Description, MetricResult
from medldm.runtime.distributed import is_main_process

logger = logging.getLogger(__name__)

_DIGITS = re.compile(r"\d+")


@contextmanager
def record_refusal(
    section: str, results: list[MetricResult], *, part: str = "all", title: str = ""
) -> Iterator[None]:
    """Turn a `NotMeasurableError` inside a part of a section into a result that says why there is none.

    Args:
        section: one of `SECTIONS`.
        results: receives the result.
        part: end of the result's key.
        title: of the result; the section's if empty.
    """
    try:
        yield
    except NotMeasurableError as error:
        title = title or SECTIONS[section]
        description = Description(key=f"{section}.{part}", title=title, meaning="", better="near")
        results.append(MetricResult(description=description, not_computed=str(error)))
        logger.warning("%s was not computed: %s", title, error)


class Stages:
    """A progress bar, and the time each stage took.

    Args:
        n_stages: that will be done.
    """

    def __init__(self, n_stages: int) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()
        self._n_stages, self._n_done, self._told = n_stages, 0, ""
        disable = None if is_main_process() else True
        self._bar = tqdm(total=n_stages, unit="stage", desc="evaluation", leave=False, disable=disable)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, text: str) -> None:
        """Show what is being done."""
        self._bar.set_postfix_str(text)
        # Without a terminal there is no bar: the log says it, but not each of many cases.
        if self._bar.disable and (what := _DIGITS.sub("", text)) != self._told:
            self._told = what
            logger.info("evaluation, stage %d of %d: %s", self._n_done + 1, self._n_stages, text)

    def done(self, name: str) -> None:
        """Note that a stage has ended."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
        self._n_done += 1
        self._bar.update()
