"""Draw a volume again where it does not pass: a bounded number of times, each from a seed that can be named.

Try 0 is the volume that the seed stands for. Later tries take a seed that follows from seed, index and try,
so that `seed` and `index` of a sidecar make its volume again without any gate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medldm.errors import ConfigError
from medldm.seeds import attempt_seed

logger = logging.getLogger(__name__)


VolumeCheck = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64] | None], list[str]]
"""Return the problems of an image, in words that name nobody.

The image (X, Y, Z), or (C, X, Y, Z) of several channels, is in [-1, 1] on the networks' spacing, without what
was padded around the label map; the labels (X, Y, Z) are 0..K; None without a label map.
"""


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """What a volume must pass.

    Args:
        check: of each volume.
        max_redraws: further tries, 0 or more.
        refuse: leave out a volume that fails every try; otherwise the last try is kept and named.
    """

    check: VolumeCheck
    max_redraws: int = 3
    refuse: bool = False

    def __post_init__(self) -> None:
        if self.max_redraws < 0:
            raise ConfigError(f"max_redraws is {self.max_redraws}: 0 or more is needed")


@dataclass(frozen=True, kw_only=True)
class RejectionResult:
    """The volume that is kept, and how it came about.

    Args:
        volume: as drawn.
        seed: that makes it again.
        tries: for each try its number, seed and problems, for the sidecar.
    """

    volume: Tensor
    seed: int
    tries: tuple[dict[str, Any], ...]

    @property
    def passed(self) -> bool:
        """Whether the last try has no problem."""
        return not self.tries[-1]["problems"]


def sample_with_rejection(
    draw: Callable[[int], Tensor],
    problems: Callable[[Tensor], list[str]],
    *,
    seed: int,
    index: int,
    max_redraws: int,
) -> RejectionResult:
    """Draw until a volume has no problem, or the tries are used up.

    Args:
        draw: seed to volume.
        problems: of a volume.
        seed: of the run.
        index: of the volume in its seed.
        max_redraws: tries after the first.
    """
    tries: list[dict[str, Any]] = []
    for attempt in range(max_redraws + 1):
        own = attempt_seed(seed, index, attempt)
        volume = draw(own)
        found = problems(volume)
        tries.append({"try": attempt, "seed": own, "problems": found})
        if not found:
            break
        logger.warning("volume %d, try %d of %d: %s", index, attempt + 1, max_redraws + 1, "; ".join(found))
    return RejectionResult(volume=volume, seed=own, tries=tuple(tries))
