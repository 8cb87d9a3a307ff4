"""Say when a denoiser begins to remember its training cases."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events
from torch.utils.data import Subset

from medldm.runtime.distributed import is_main_process
from medldm.training.latent_dataset import LatentDataset
from medldm.training.quarantine import BadCase

logger = logging.getLogger(__name__)

TRAINING_LOSS, GAP = "training_loss", "gap"
"""Metrics of a validation: the loss on as many training cases; how much more that on unseen cases is."""
LARGE_GAP = 0.2
"""Share of the validation loss above which a gap is warned of."""


def as_many_cases(dataset: LatentDataset, n: int) -> Subset[Any]:
    """Return n sound cases of a training, not augmented and spread evenly over it; all where it has fewer."""
    sound = [index for index, entry in enumerate(dataset.entries) if not isinstance(entry, BadCase)]
    n = min(n, len(sound))
    return Subset(dataset, [sound[place * len(sound) // n] for place in range(n)])


class GapWarning:
    """Warn once when the gap between the losses of unseen and of training cases is large.

    Args:
        evaluator: validates with "validation_loss" and `GAP`.
        share: of the validation loss.
    """

    def __init__(self, evaluator: Engine, *, share: float = LARGE_GAP) -> None:
        self.evaluator = evaluator
        self.share = share
        self._has_warned = False

    def attach(self, trainer: Engine) -> None:
        """Look at each validation of a trainer, in the first process."""
        if is_main_process():
            self.evaluator.add_event_handler(Events.COMPLETED, self._look, trainer)

    def _look(self, evaluator: Engine, trainer: Engine) -> None:
        metrics = evaluator.state.metrics
        if self._has_warned or not metrics.get(GAP, 0.0) > self.share * metrics["validation_loss"]:
            return
        self._has_warned = True
        logger.warning(
            "epoch %d: the loss of unseen cases (%.4g) is %.0f %% above that of training cases (%.4g): the "
            "denoiser begins to remember them. Give fewer weights (down_channels), more cases, augmentation "
            "or less patience; latent_diffusion_early.safetensors has weights from before the lowest loss",
            *(trainer.state.epoch, metrics["validation_loss"]),
            *(100 * metrics[GAP] / max(metrics[TRAINING_LOSS], 1e-12), metrics[TRAINING_LOSS]),
        )
