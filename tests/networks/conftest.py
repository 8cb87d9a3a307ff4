"""Fixtures for the networks: random weights where initialisation is zero, so that every path counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def randomise(generator: torch.Generator) -> Callable[[nn.Module], nn.Module]:
    """Draw all weights and biases anew, none of them zero, on the scale of the usual initialisation."""

    def draw(network: nn.Module) -> nn.Module:
        for parameter in network.parameters():
            is_matrix = parameter.ndim > 1
            std = parameter[0].numel() ** -0.5 if is_matrix else 0.3
            mean = 0.0 if is_matrix else 0.5
            with torch.no_grad():
                parameter.normal_(mean, std, generator=generator)
        return network

    return draw
