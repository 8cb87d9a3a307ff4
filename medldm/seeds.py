"""How every generator of a run follows from one seed."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for a training; called by the workflows, never on import."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
