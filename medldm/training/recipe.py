"""What a checkpoint's card says of the settings of its training, see `medldm.latent_diffusion.recipe`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medldm.configs import Config
from medldm.training.configs import RunConfig

NOT_RECORDED = {
    "n_epochs": "they depend on the number of cases; steps are recorded",
    "autoencoder_type": "the card has it",
    "autoencoder_path": "a file of one machine",
    "perceptual_weights": "a file of one machine",
    "latent_scaling_factor": "statistics are measured",
    "precision": "what a device is fast in",
    "freeze": "of weights that a training started from",
    "adapter_rank": "of weights that a training started from",
}
"""Settings that a card does not repeat, and why."""
OF_A_START = ("learning_rate", "warmup_steps")
"""Settings that go by whether a training starts from weights; those of one from nothing are recorded."""


def settings_of(
    config: Config,
    run: RunConfig,
    *,
    n_batches: int,
    loss: Any = None,
    is_started: bool = False,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the settings of a training.

    Args:
        config: of the stage, with `n_epochs` and `accumulation_steps`.
        run: how cases are put together and validated.
        n_batches: of an epoch.
        loss: of the first stage, whose configuration, if it has one, counts.
        is_started: whether the training starts from the weights of a checkpoint.
        further: knobs that neither configuration holds, by name.
    """
    own: Any = config
    weighed = getattr(loss, "config", None)
    values = {
        **(weighed.to_dict() if isinstance(weighed, Config) else {}),
        **config.to_dict(),
        "n_steps": own.n_epochs * math.ceil(n_batches / own.accumulation_steps),
        "batch_size": run.batch_size,
        "val_interval": run.val_interval,
        **(further or {}),
    }
    left_out = {*NOT_RECORDED, *(OF_A_START if is_started else ())}
    return {name: _finite(value) for name, value in values.items() if name not in left_out}


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: infinity by name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
