"""Autocast and the choice of a precision."""

from __future__ import annotations

import pytest
import torch

from medldm.runtime.devices import choose_device
from medldm.training import autocast
from medldm.training.precision import choose_precision


def test_autocast_works_on_the_cpu() -> None:
    with autocast(torch.device("cpu"), "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_float16_without_cuda_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float16.*needs a CUDA device"):
        autocast(torch.device("cpu"), "float16")
    with pytest.raises(ValueError, match="choose from"):
        autocast(torch.device("cpu"), "half")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_only_where_the_cpu_computes_in_it(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    cpu = torch.device("cpu")
    assert choose_precision(cpu, "auto") == chosen
    with autocast(cpu, "auto"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, chosen)
    assert [choose_precision(cpu, name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
