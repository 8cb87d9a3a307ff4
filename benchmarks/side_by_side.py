"""Measure two computations in turns: time, memory, operations, and what the machine can do at most."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


class Seconds(NamedTuple):
    """Times of one computation.

    Args:
        median: in seconds.
        spread: half the distance of the quartiles over the median.
        n: repetitions.
    """

    median: float
    spread: float
    n: int


def measure_in_turns(
    works: Mapping[str, Callable[[], Any]], *, repeats: int, device: str
) -> dict[str, Seconds]:
    """Run each work twice to warm up, then all of them in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 2):
        for name, work in works.items():
            synchronise(device)
            start = time.perf_counter()
            work()
            synchronise(device)
            if repeat > 1:
                seconds[name].append(time.perf_counter() - start)
    return {name: _summarise(values) for name, values in seconds.items()}


def _summarise(values: list[float]) -> Seconds:
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
    return Seconds(median, (high - low) / 2 / median, len(values))


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was told; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_memory(work: Callable[[], Any], *, device: str) -> int:
    """Return the bytes that the first run of `work` needs over what the process holds before it.

    On a CPU it is the peak of the resident set, which Linux lets a process reset.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    work()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


KINDS = {
    "convolutions": ("conv",),
    "normalisation": ("norm",),
    "activations": ("silu", "gelu", "sigmoid"),
    "products": ("mm", "scaled_dot", "softmax", "linear"),
    "copies": ("copy_", "cat", "fill_", "zero_", "clone", "upsample", "pad"),
    "optimiser": ("adam", "optimizer", "addcdiv", "lerp", "sqrt"),
}
"""Words in the names of operations by which their time is told apart; the first kind that fits takes it."""


def share_of_time(work: Callable[[], Any]) -> dict[str, float]:
    """Run once under the profiler; return the share of the time of each kind of operation, and the rest."""
    with torch.profiler.profile() as profile:
        work()
    shares = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "rest")
        shares[kind] += event.self_cpu_time_total + getattr(event, "self_device_time_total", 0.0)
    total = sum(shares.values())
    return {kind: value / total for kind, value in shares.items()}


def count_operations(work: Callable[[], Any]) -> int:
    """Count floating-point operations of convolutions and matrix products, two for a multiply-add."""

    def convolution(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape, transposed=False)

    mapping = {
        torch.ops.aten.mkldnn_convolution: convolution,
        torch.ops.mkldnn._convolution_pointwise: convolution,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return counter.get_total_flops()


def peak_rate(dtype: torch.dtype, *, device: str) -> float:
    """Measure the most operations per second, of a large matrix product in two ways and of a convolution."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    volume = a.view(1, size, size, 1, 1).contiguous(memory_format=torch.channels_last_3d)
    kernel = b.view(size, size, 1, 1, 1)
    n = 64 if device == "cuda" else 32
    voxels = torch.randn(1, n, n, n, 64, device=device, dtype=dtype).movedim(-1, 1)
    filters = torch.randn(64, 64, 3, 3, 3, device=device, dtype=dtype)
    works: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "product": (2 * size**3, lambda: a @ b),
        "1^3 convolution": (2 * size**3, lambda: torch.nn.functional.conv3d(volume, kernel)),
        "3^3 convolution": (
            2 * 27 * 64**2 * n**3,
            lambda: torch.nn.functional.conv3d(voxels, filters, padding=1),
        ),
    }
    seconds = measure_in_turns({name: work for name, (_, work) in works.items()}, repeats=5, device=device)
    return max(works[name][0] / value.median for name, value in seconds.items())


def describe_machine(device: str) -> str:
    """Describe processor or GPU and versions in one line, without names of hosts."""
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        words = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "").split()
        flags = " with " + ", ".join(name for name in known if name in words)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    processor = f"{cores} CPU cores{flags} ({torch.backends.cpu.get_cpu_capability()})"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, {processor}, {versions}"
    return f"{processor}, {versions}"
