"""A plan as a table, the assumptions behind it, and the options to paste."""

from __future__ import annotations

from collections.abc import Sequence

from medldm.planning.networks import PlannedNetworks, StageKnobs
from medldm.planning.plan import MARGIN, RUNTIME_BYTES, Plan, StagePlan
from medldm.training.length import DEFAULT_STEPS

_HEADER = ("work", "batch", "precision", "checkpoints", "volume", "predicted peak", "fits", "largest batch")


def report_plan(
    plan: Plan, networks: PlannedNetworks, *, seconds: Sequence[float] | None, assumptions: Sequence[str]
) -> str:
    """Return table, assumptions and options as text.

    Args:
        plan: to report.
        networks: as they were asked for; the options state what differs.
        seconds: of both trainings; None where no rate is known.
        assumptions: behind the seconds, one line each.
    """
    lines = _align(_rows(plan))
    lines += ["", *_times(plan, seconds), "Assumed:", *(f"- {line}" for line in _basis(plan))]
    lines += [f"- {line}" for line in assumptions]
    lines += [f"- autoencoder: {networks.autoencoder_choice}"] if networks.autoencoder_choice else []
    lines += [f"- denoiser: {networks.denoiser_choice}"] if networks.denoiser_choice else []
    lines += ["", *_options(plan, networks)]
    return "\n".join(lines)


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    limit = plan.budget.usable_bytes
    rows: list[tuple[str, ...]] = [_HEADER]
    for name, stage, beside in (
        ("autoencoder, step", plan.autoencoder, "autoencoder, validation"),
        ("diffusion, step", plan.diffusion, "diffusion, encoding the cohort"),
    ):
        knobs = stage.knobs
        volume = _times_sign(knobs.patch_size or plan.size)
        checkpoints = "yes" if knobs.checkpointing else "no"
        described = (str(knobs.batch_size), knobs.precision, checkpoints, volume)
        rows.append((name, *described, *_peak(stage.peak_bytes, limit), str(stage.largest_batch)))
        whole = ("1", knobs.precision if plan.autoencoder is stage else "float32", "", _times_sign(plan.size))
        rows.append((beside, *whole, *_peak(stage.other_bytes, limit), ""))
    if plan.decoder is not None:
        knobs = plan.decoder.knobs
        described = (str(knobs.batch_size), knobs.precision, "", _times_sign(knobs.patch_size or plan.size))
        largest = str(plan.decoder.largest_batch)
        rows.append(("decoder, step", *described, *_peak(plan.decoder.peak_bytes, limit), largest))
    if plan.texture is not None:
        whole = ("1", "float32", "", _times_sign(plan.size))
        rows.append(("texture, a case", *whole, *_peak(plan.texture.peak_bytes, limit), ""))
    sampled = ("1", "float32", "", _times_sign(plan.size))
    streamed = "" if plan.max_memory_gb is None else ", streamed"
    rows.append(("sampling, denoising", *sampled, *_peak(plan.denoise_bytes, limit), ""))
    rows.append((f"sampling, decoding{streamed}", *sampled, *_peak(plan.decode_bytes, limit), ""))
    return rows


def _peak(n_bytes: int, limit: float) -> tuple[str, str]:
    return f"{n_bytes / 1e9:.2f} GB", "yes" if n_bytes <= limit else "NO"


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _times_sign(size: Sequence[int]) -> str:
    return "x".join(str(n) for n in size)


def _times(plan: Plan, seconds: Sequence[float] | None) -> list[str]:
    if seconds is None:
        work = [stage.operations_per_sample / 1e12 for stage in (plan.autoencoder, plan.diffusion)]
        return [
            f"A sample's step takes {work[0]:.3f} and {work[1]:.3f} * 10^12 operations; for the time give "
            "--tflops, what the GPU sustains."
        ]
    first, second, *later = (_duration(value) for value in seconds)
    lengths = [_length(stage.knobs) for stage in (plan.autoencoder, plan.diffusion)]
    return [
        f"Time on {plan.budget.n_devices} device(s), at most: autoencoder {first} ({lengths[0]}), diffusion "
        f"{second} ({lengths[1]})"
        + "".join(f", decoder and texture {each}" for each in later if each != "0 s")
        + "."
    ]


def _length(knobs: StageKnobs) -> str:
    return f"{knobs.n_epochs} epochs" if knobs.n_epochs else f"{knobs.n_steps or DEFAULT_STEPS} steps"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _basis(plan: Plan) -> list[str]:
    where = "CPU with oneDNN" if plan.budget.device == "cpu" else "GPU; not measured on one"
    return [
        f"peaks are those of tensors on a {where}; gaps that allocators keep are not in them",
        f"a plan fits with {100 * (MARGIN - 1):.0f} % more and {RUNTIME_BYTES / 1e9:g} GB for the process "
        f"itself, of {plan.budget.memory_gb:g} GB",
        "volumes kept in the computer's memory (cache_rate) come on top on a CPU",
    ]


def _options(plan: Plan, networks: PlannedNetworks) -> list[str]:
    lines = []
    for name, stage, asked in (
        ("train_autoencoder.yaml", plan.autoencoder, networks.first),
        ("train_diffusion.yaml", plan.diffusion, networks.second),
    ):
        if not stage.fits:
            lines.append(f"{name}: does not fit; try fewer channels, smaller volumes or more memory")
            continue
        more = _later_knobs(plan, networks) if stage is plan.diffusion else _factors(networks)
        lines.append(f"{name}: {' '.join(filter(None, (_knobs(stage, asked), more))) or 'as it is'}")
    if not plan.sampling_fits:
        lines.append("inference.yaml: does not fit; try fewer channels, smaller volumes or more memory")
    else:
        limit = plan.max_memory_gb
        lines.append(f"inference.yaml: {'as it is' if limit is None else f'--max_memory_gb {limit:g}'}")
    return lines


def _factors(networks: PlannedNetworks) -> str:
    chosen = networks.downsampling_choice
    return "" if chosen is None else f"--downsampling {_quoted(chosen)}"


def _later_knobs(plan: Plan, networks: PlannedNetworks) -> str:
    """Return what the decoder's training and the fit of a texture need to fit, or to be left out."""
    found = []
    if plan.decoder is not None:
        knobs, asked = plan.decoder.knobs, networks.third
        if not plan.decoder.fits:
            found.append("--decoder_steps 0")
        elif knobs.batch_size != asked.batch_size:
            found.append(f"--decoder_batch_size {knobs.batch_size}")
        if plan.decoder.fits and knobs.patch_size != asked.patch_size:
            found.append(f"--decoder_patch_size {_quoted(knobs.patch_size or ())}")
    if plan.texture is not None and not plan.texture.fits:
        found.append("--fit_texture false")
    return " ".join(found)


def _quoted(numbers: Sequence[int]) -> str:
    return '"[' + ",".join(str(n) for n in numbers) + ']"'


def _knobs(stage: StagePlan, asked: StageKnobs) -> str:
    found = []
    for name in ("batch_size", "accumulation_steps", "precision", "checkpointing", "patch_size"):
        value = getattr(stage.knobs, name)
        if value == getattr(asked, name) or (name == "precision" and asked.precision == "auto"):
            continue
        if isinstance(value, tuple):
            value = _quoted(value)
        found.append(f"--{name} {str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(found)
