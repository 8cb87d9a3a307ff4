"""Choose batch, checkpointing, precision, patches and streaming that fit a memory, and predict the peaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch

from medldm.errors import ConfigError
from medldm.networks.streaming.memory_limit import choose_plan
from medldm.planning import workloads
from medldm.planning.dry_run import DryRun
from medldm.planning.networks import PlannedNetworks, StageKnobs
from medldm.training.precision import choose_precision
from medldm.training.texture import TextureConfig

MARGIN = 1.15
"""How far a measured peak may lie above the prediction; a plan fits with it."""

RUNTIME_BYTES = 0.7e9
"""What a process holds before it has a network: Python, PyTorch and MONAI on a CPU, the context on a GPU."""

MAX_BATCH = 64
SMALLEST_PATCH = 32
PATCH_SHARES = (0.75, 0.5, 0.375, 0.25)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is there to run on.

    Args:
        memory_gb: 10^9 bytes of the GPU, or of the computer for a CPU.
        device: "cpu" or "cuda".
        n_devices: GPUs, or CPU processes, that train together.
    """

    memory_gb: float
    device: str = "cuda"
    n_devices: int = 1

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ConfigError(f"memory_gb is {self.memory_gb}: give a positive number of 10^9 bytes")
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"device is {self.device!r}: choose from ['cpu', 'cuda']")
        if self.n_devices < 1:
            raise ConfigError(f"n_devices is {self.n_devices}: at least 1 is needed")

    @property
    def usable_bytes(self) -> float:
        """What predicted peaks may add up to."""
        return (self.memory_gb * 1e9 - RUNTIME_BYTES) / MARGIN


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """How to train a stage.

    Args:
        knobs: that fit, or the leanest that were tried.
        fits: whether they do.
        peak_bytes: of a training step.
        other_bytes: of what runs beside the steps on whole volumes: validation, or the encoding of a cohort.
        largest_batch: that fits with these knobs; 0 if none does.
        operations_per_sample: floating-point operations of a training step over its samples.
    """

    knobs: StageKnobs
    fits: bool
    peak_bytes: int
    other_bytes: int
    largest_batch: int
    operations_per_sample: float


@dataclass(frozen=True, kw_only=True)
class TexturePlan:
    """What the fit of a texture takes.

    Args:
        fits: whether it does; volumes are decoded whole.
        peak_bytes: of a case.
        operations: of all cases.
    """

    fits: bool
    peak_bytes: int
    operations: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train both stages and to sample.

    Args:
        size: voxels of the volumes.
        budget: planned for.
        autoencoder: first stage.
        diffusion: second stage.
        denoise_bytes: peak of a denoising step of one volume, with guidance.
        decode_bytes: peak of decoding one volume.
        max_memory_gb: of the decoder; None to decode whole.
        sampling_fits: whether sampling does.
        decoder: its training after the second stage; None for none.
        texture: the fit that comes last; None for none.
    """

    size: tuple[int, ...]
    budget: Budget
    autoencoder: StagePlan
    diffusion: StagePlan
    denoise_bytes: int
    decode_bytes: int
    max_memory_gb: float | None
    sampling_fits: bool
    decoder: StagePlan | None = None
    texture: TexturePlan | None = None


def predict(work: workloads.Work, *, device: str = "cpu") -> DryRun:
    """Run a piece of work without memory or arithmetic; the peak holds weights and optimiser, too."""
    dry = DryRun(like_gpu=device == "cuda")
    with dry.counting():
        work()
    return dry


def make_plan(networks: PlannedNetworks, budget: Budget) -> Plan:
    """Choose for each stage the first way that fits: as asked, with checkpoints, smaller batches, patches.

    Args:
        networks: of both stages, with the knobs that are wanted.
        budget: to fit.
    """
    first = _plan_stage(_FIRST, networks, budget)
    second = _plan_stage(_SECOND, networks, budget)
    denoise = predict(workloads.denoise(networks), device=budget.device).peak_bytes
    decode, max_memory_gb = _plan_decoding(networks, budget)
    return Plan(
        size=networks.size,
        budget=budget,
        autoencoder=first,
        diffusion=second,
        denoise_bytes=denoise,
        decode_bytes=decode,
        max_memory_gb=max_memory_gb,
        sampling_fits=max(denoise, decode) <= budget.usable_bytes,
        decoder=_plan_decoder(networks, budget, second) if networks.third.n_steps else None,
        texture=_plan_texture(networks, budget) if networks.fits_texture else None,
    )


def _plan_decoder(networks: PlannedNetworks, budget: Budget, second: StagePlan) -> StagePlan:
    """Plan the decoder's training: as asked, with single cases, or with patches of them."""
    asked, networks = networks.third, networks.with_second(precision=second.knobs.precision)
    single = asked.copy(batch_size=1)
    patches = [] if asked.patch_size else [single.copy(patch_size=each) for each in _patches(networks)]
    tried = []
    for config in (asked, *([single] if asked.batch_size > 1 else []), *patches):
        tried.append(
            (config, predict(workloads.train_decoder(replace(networks, third=config)), device=budget.device))
        )
        if tried[-1][1].peak_bytes <= budget.usable_bytes:
            break
    config, found = min(tried, key=lambda each: each[1].peak_bytes)
    whole = predict(workloads.decode(networks), device=budget.device).peak_bytes
    knobs = StageKnobs(
        batch_size=config.batch_size,
        n_steps=config.n_batches,
        precision=second.knobs.precision,
        patch_size=config.patch_size,
    )
    fits = max(found.peak_bytes, whole) <= budget.usable_bytes
    return StagePlan(
        knobs=knobs,
        fits=fits,
        peak_bytes=found.peak_bytes,
        other_bytes=whole,
        largest_batch=config.batch_size if fits else 0,
        operations_per_sample=found.operations / (workloads.N_STEPS * config.batch_size),
    )


def _plan_texture(networks: PlannedNetworks, budget: Budget) -> TexturePlan:
    """Plan the fit of a texture: cases are encoded, decoded and, after a decoder, denoised."""
    encode, denoise, decode = (
        predict(work(networks), device=budget.device)
        for work in (workloads.encode_volume, workloads.denoise, workloads.decode)
    )
    peak = max(encode.peak_bytes, denoise.peak_bytes, decode.peak_bytes)
    config = TextureConfig()
    of_noise = denoise.operations * config.denoising_steps if networks.third.n_steps else 0
    return TexturePlan(
        fits=peak <= budget.usable_bytes,
        peak_bytes=peak,
        operations=config.max_cases * (encode.operations + of_noise + decode.operations),
    )


@dataclass(frozen=True)
class _Stage:
    """One of the two stages, as the search sees it."""

    knobs_of: Callable[[PlannedNetworks], StageKnobs]
    change: Callable[..., PlannedNetworks]
    train: Callable[[PlannedNetworks], workloads.Work]
    beside: Callable[[PlannedNetworks], workloads.Work]
    has_patches: bool


_FIRST = _Stage(
    lambda networks: networks.first,
    PlannedNetworks.with_first,
    lambda networks: workloads.train_autoencoder(networks),
    lambda networks: workloads.validate_autoencoder(networks),
    has_patches=True,
)
_SECOND = _Stage(
    lambda networks: networks.second,
    PlannedNetworks.with_second,
    lambda networks: workloads.train_diffusion(networks),
    lambda networks: workloads.encode_volume(networks),
    has_patches=False,
)


def _plan_stage(stage: _Stage, networks: PlannedNetworks, budget: Budget) -> StagePlan:
    leanest: tuple[PlannedNetworks, DryRun] | None = None
    for candidate in _candidates(stage, networks, budget):
        found = predict(stage.train(candidate), device=budget.device)
        if leanest is None or found.peak_bytes < leanest[1].peak_bytes:
            leanest = candidate, found
        if found.peak_bytes <= budget.usable_bytes:
            leanest = candidate, found
            break
    if leanest is None:
        raise ValueError("there was nothing to try")
    candidate, found = leanest
    knobs = stage.knobs_of(candidate)
    other = predict(stage.beside(candidate), device=budget.device).peak_bytes
    return StagePlan(
        knobs=knobs,
        fits=max(found.peak_bytes, other) <= budget.usable_bytes,
        peak_bytes=found.peak_bytes,
        other_bytes=other,
        largest_batch=_largest_batch(stage, candidate, found, budget),
        operations_per_sample=found.operations / (workloads.N_STEPS * knobs.batch_size),
    )


def _candidates(stage: _Stage, networks: PlannedNetworks, budget: Budget) -> Iterator[PlannedNetworks]:
    """Give the ways to train a stage, the ones that change least first."""
    asked = stage.knobs_of(networks)
    n_samples = asked.accumulation_steps * asked.batch_size
    precisions = [asked.precision]
    if asked.precision == "auto":
        precisions = [
            "bfloat16" if budget.device == "cuda" else choose_precision(torch.device("cpu"), "auto")
        ]
    if budget.device == "cuda" and asked.precision == "float32":
        precisions.append("bfloat16")
    for precision, checkpointing in product(precisions, sorted({asked.checkpointing, True})):
        batch = asked.batch_size
        while batch >= 1:
            knobs = {"batch_size": batch, "accumulation_steps": n_samples // batch}
            yield stage.change(networks, precision=precision, checkpointing=checkpointing, **knobs)
            batch //= 2
    if stage.has_patches and asked.patch_size is None:
        knobs = {"batch_size": 1, "accumulation_steps": n_samples}
        for patch in _patches(networks):
            yield stage.change(
                networks, precision=precisions[-1], checkpointing=True, patch_size=patch, **knobs
            )


def _patches(networks: PlannedNetworks) -> Iterator[tuple[int, ...]]:
    factors = networks.autoencoder.downsampling or ()
    for share in PATCH_SHARES:
        patch = tuple(
            int(n * share) // factor * factor for n, factor in zip(networks.size, factors, strict=True)
        )
        if min(patch) >= SMALLEST_PATCH:
            yield patch


def _largest_batch(stage: _Stage, networks: PlannedNetworks, found: DryRun, budget: Budget) -> int:
    """Return the largest batch that fits: a peak is a constant and a part for each sample."""
    batch = stage.knobs_of(networks).batch_size
    more = predict(stage.train(stage.change(networks, batch_size=batch + 1)), device=budget.device)
    of_sample = more.peak_bytes - found.peak_bytes
    spare = budget.usable_bytes - found.peak_bytes
    if of_sample <= 0:
        return batch if spare >= 0 else 0
    return max(0, min(MAX_BATCH, batch + int(spare // of_sample)))


def _plan_decoding(networks: PlannedNetworks, budget: Budget) -> tuple[int, float | None]:
    """Return the peak of decoding, and the limit to give the decoder where decoding whole does not fit."""
    whole = predict(workloads.decode(networks), device=budget.device).peak_bytes
    if whole <= budget.usable_bytes:
        return whole, None
    empty = replace(networks, size=networks.autoencoder.downsampling or ())
    weights = predict(workloads.decode(empty), device=budget.device).peak_bytes
    limit = round(max(budget.usable_bytes - weights, 1e7) / 1e9, 2)
    shape = workloads.latent_shape(networks)[2:]
    choose_plan(networks.autoencoder, shape, max_memory_gb=limit, is_decoder=True)
    return predict(workloads.decode(networks, limit), device=budget.device).peak_bytes, limit
