"""TensorBoard's event files without the name of the machine, which may name a hospital or a person."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

NEUTRAL_HOST = "host"


class NeutralSummaryWriter(SummaryWriter):
    """Write as `SummaryWriter` does, into files named `events.out.tfevents.<seconds>.host.<process>.<n>`."""

    def _get_file_writer(self) -> Any:
        # TensorBoard has no setting for it; the writer that it makes here asks for the name once.
        neutral = SimpleNamespace(gethostname=lambda: NEUTRAL_HOST)
        with patch.object(event_file_writer, "socket", neutral):
            return super()._get_file_writer()
