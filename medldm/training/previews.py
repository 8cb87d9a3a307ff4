"""What TensorBoard shows after each validation: middle slices of reconstructions and of new volumes."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import default_collate

from medldm.runtime.distributed import is_main_process
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.training.handlers import TrainingLog
from medldm.training.volumes import gather_conditions


class SliceWriter:
    """Write the middle slices of a validation volume and of its reconstruction to TensorBoard.

    Args:
        log: where to write.
        evaluator: its output holds volumes (B, C, X, Y, Z) in [-1, 1] under MONAI's "image" and "pred".
    """

    def __init__(self, log: TrainingLog, *, evaluator: Engine) -> None:
        self.log = log
        self.evaluator = evaluator

    def attach(self, trainer: Engine) -> None:
        """Write after each validation, in the first process."""
        if is_main_process():
            self.evaluator.add_event_handler(Events.COMPLETED, self._write, trainer)

    def _write(self, evaluator: Any, trainer: Engine) -> None:
        for key, title in ((Keys.IMAGE, "real"), (Keys.PRED, "reconstruction")):
            self._show(evaluator.state.output[key][0], title, trainer)

    def _show(self, volume: Tensor, title: str, trainer: Engine) -> None:
        self.log.writer.add_image(f"validation/{title}", middle_slices(volume), trainer.state.epoch)


class SampleWriter(SliceWriter):
    """Write the middle slices of a sample to TensorBoard after each validation.

    The sample is drawn with the averaged weights for the conditions of the first validation case, always from
    the same noise.

    Args:
        log: where to write.
        evaluator: of the second stage.
        num_steps: of the sampling; few, for it is only a look.
    """

    def __init__(self, log: TrainingLog, *, evaluator: Engine, num_steps: int = 10) -> None:
        super().__init__(log, evaluator=evaluator)
        self.num_steps = num_steps

    def _write(self, evaluator: Any, trainer: Engine) -> None:
        batch, config = default_collate([evaluator.data_loader.dataset[0]]), evaluator.config
        sampler = LatentDiffusionSampler(evaluator.model, config, denoiser=evaluator.denoiser)
        conditions = gather_conditions(batch, sampler.denoiser.conditioning.names)
        volume = sampler.sample(
            batch["mean"].shape, conditions=conditions, num_steps=self.num_steps, seed=config.seed
        )
        self._show(volume[0], "sample", trainer)


def middle_slices(volume: Tensor) -> Tensor:
    """Return the middle slices of a volume (C, X, Y, Z) in [-1, 1] side by side, channel below channel.

    Returns:
        (1, C H, W) in [0, 1].
    """
    return torch.cat([_middle_slices_of(channel) for channel in volume], dim=1)


def _middle_slices_of(channel: Tensor) -> Tensor:
    x, y, z = channel.shape
    planes = [channel[x // 2], channel[:, y // 2], channel[:, :, z // 2]]
    height, width = max(plane.shape[1] for plane in planes), max(plane.shape[0] for plane in planes)
    canvas = torch.full((1, height, 3 * width), -1.0)
    for i, plane in enumerate(planes):
        upright = plane.detach().float().cpu().T.flip(0)
        canvas[0, : upright.shape[0], i * width : i * width + upright.shape[1]] = upright
    return ((canvas + 1) / 2).clamp(0, 1)
