"""How long trainings take: their operations over a rate that is given or measured."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ignite.engine import Events

from medldm.planning import workloads
from medldm.planning.networks import PlannedNetworks
from medldm.planning.plan import Plan, predict

_SMALL = (32, 32, 32)
_N_STEPS = 4


def measure_rate(networks: PlannedNetworks) -> float:
    """Measure the operations per second of this CPU in steps of the first stage on 32^3 voxels.

    All that a step does counts, also what has no operations in the prediction, such as normalisations.
    """
    small = replace(networks, size=_SMALL).with_first(patch_size=None, batch_size=1, precision="float32")
    operations = predict(workloads.train_autoencoder(small)).operations / workloads.N_STEPS
    trainer: Any = workloads.first_stage(small, n_steps=_N_STEPS).trainer
    moments: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_STARTED | Events.ITERATION_COMPLETED, lambda _: moments.append(time.perf_counter())
    )
    trainer.run()
    seconds = [end - start for start, end in zip(moments[::2], moments[1::2], strict=True)]
    return operations / min(seconds[1:])


def training_seconds(plan: Plan, *, rate: float, n_cases: int) -> tuple[float, float, float]:
    """Return the seconds of both trainings at most, and of what follows, without validations and reading.

    Patience may end a training earlier. The decoder's training and the fit of a texture follow.

    Args:
        plan: of the trainings.
        rate: operations per second of one device.
        n_cases: training cases of an epoch.
    """
    first, second = (
        stage.operations_per_sample
        * n_cases
        * stage.knobs.count_epochs(n_cases=n_cases)
        / (rate * plan.budget.n_devices)
        for stage in (plan.autoencoder, plan.diffusion)
    )
    decoder, texture = plan.decoder, plan.texture
    later = 0.0 if texture is None else texture.operations / rate  # by one process
    if decoder is not None:
        n_samples = (decoder.knobs.n_steps or 0) * decoder.knobs.batch_size
        later += decoder.operations_per_sample * n_samples / (rate * plan.budget.n_devices)
    return first, second, later
