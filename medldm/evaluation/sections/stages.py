"""How an evaluation goes through its sections: a progress bar, and refusals that become results."""

from __future__ import annotations

import logging
import time

from tqdm import tqdm

from medldm.evaluation.sections.metric_result import SECTIONS, Description, MetricResult
from medldm.runtime.distributed import is_main_process

logger = logging.getLogger(__name__)


class Refusals:
    """Turn a ValueError inside a part of a section into a result that says why nothing was computed.

    Args:
        section: one of `SECTIONS`.
        results: receives the result.
        part: end of the result's key.
        title: of the result; the section's if empty.
    """

    def __init__(
        self, section: str, results: list[MetricResult], *, part: str = "all", title: str = ""
    ) -> None:
        self.description = Description(
            key=f"{section}.{part}", title=title or SECTIONS[section], meaning="", better="near"
        )
        self.results = results

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ValueError):
            return False
        self.results.append(MetricResult(description=self.description, not_computed=str(error)))
        logger.warning("%s was not computed: %s", self.description.title, error)
        return True


class Stages:
    """A progress bar, and the time each stage took.

    Args:
        n_stages: that will be done.
    """

    def __init__(self, n_stages: int) -> None:
        self.n_stages = n_stages
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Stages:
        self._last = time.monotonic()
        self._bar = tqdm(
            total=self.n_stages,
            unit="stage",
            desc="evaluation",
            leave=False,
            disable=None if is_main_process() else True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, text: str) -> None:
        """Show what is being done."""
        self._bar.set_postfix_str(text)

    def done(self, name: str) -> None:
        """Note that a stage has ended."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
        self._bar.update()
