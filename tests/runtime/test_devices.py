"""Which device to run on: one that is not there is refused by name."""

from __future__ import annotations

import pytest
import torch

from medldm.runtime.devices import DeviceError, choose_device


@pytest.fixture
def n_gpus(monkeypatch, request) -> int:
    """Let torch see some GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize(("n_gpus", "name"), [(0, "cpu"), (2, "cuda")], indirect=["n_gpus"])
def test_auto_takes_a_gpu_where_there_is_one(n_gpus, name) -> None:
    assert choose_device() == torch.device(name)


@pytest.mark.parametrize(
    ("n_gpus", "name", "message"),
    [
        (0, "cuda", "'cuda', but torch sees no CUDA device"),
        (2, "cuda:2", "'cuda:2', but torch sees cuda:0 to cuda:1"),
        (0, "gpu", "'gpu': 'auto', 'cpu', 'cuda' or 'cuda:1'"),
    ],
    indirect=["n_gpus"],
)
def test_a_device_that_is_not_there_is_refused(n_gpus, name, message) -> None:
    with pytest.raises(DeviceError, match=message):
        choose_device(name)


@pytest.mark.parametrize("n_gpus", [2], indirect=True)
def test_the_last_gpu_is_there(n_gpus) -> None:
    assert choose_device("cuda:1") == torch.device("cuda", 1)
