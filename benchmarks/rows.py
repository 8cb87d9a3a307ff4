"""The rows of the table: what is measured, at which size, and what we aim at."""

from __future__ import annotations

from dataclasses import dataclass, replace

NETWORKS = ("MONAI", "medldm")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: the second side is compared with the first.

    Args:
        title: as the table shows it.
        kind: which function makes the work; "networks" and "pipeline" below say in which file.
        size: of the volume or latent grid.
        quick: the same, for --quick.
        sides: what is compared, in the order of the columns.
        is_step: whether it is a training step.
        has_checkpoints: whether the memory of the step with checkpoints is measured too.
        has_third: whether MONAI is also timed with its memory allocated as medldm's commands do.
        only_second: whether the first side is left out, because it would not fit.
        channels: of the latents.
        batch: samples.
        steps: of a sampling, or repetitions of what is looped.
        tile: planes of a tile of streaming.
        recompute: whether streaming stores one map in place of two at the finest level.
        max_memory_gb: limit within which a volume is decoded.
        precisions: measured.
        speed: wanted speed in float32 and bfloat16, over the first side's.
        memory: wanted memory, over the first side's.
        note: what else is wanted.
    """

    title: str
    kind: str
    size: tuple[int, int, int]
    quick: tuple[int, int, int]
    sides: tuple[str, str] = NETWORKS
    is_step: bool = False
    has_checkpoints: bool = False
    has_third: bool = False
    only_second: bool = False
    channels: int = 4
    batch: int = 1
    steps: int = 50
    tile: int = 8
    recompute: bool = False
    max_memory_gb: float | None = None
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    speed: tuple[float | None, float | None] = (None, None)
    memory: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """How a row is run.

    Args:
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16" (autocast).
        quick: whether the small size is taken.
        checkpointing: whether a training step recomputes its blocks.
        is_tuned: whether the process allocates as medldm's commands do.
    """

    device: str
    precision: str
    quick: bool
    checkpointing: bool = False
    is_tuned: bool = False


def _growth(length: int) -> Row:
    return Row(
        title=f"decode to {4 * length}^3",
        kind="decode",
        size=(length,) * 3,
        quick=(length // 4,) * 3,
        precisions=("float32",),
        tile=min(8, length),
    )


_STREAMING = Row(
    title="decode to 128^3, streaming",
    kind="decode",
    size=(32,) * 3,
    quick=(8,) * 3,
    speed=(1.0, 1.3),
    memory=0.35,
)

ROWS = {
    "autoencoder_forward": Row(
        title="autoencoder forward, 64^3",
        kind="autoencoder",
        size=(64,) * 3,
        quick=(16,) * 3,
        has_third=True,
        speed=(1.5, 1.45),
        memory=0.5,
    ),
    "autoencoder_step_64": Row(
        title="autoencoder training step, 64^3",
        kind="autoencoder",
        size=(64,) * 3,
        quick=(16,) * 3,
        is_step=True,
        has_checkpoints=True,
        has_third=True,
        speed=(1.25, 1.4),
        memory=0.5,
    ),
    "unet_forward_16": Row(
        title="U-Net forward, 4 x 16^3",
        kind="unet",
        size=(16,) * 3,
        quick=(8,) * 3,
        speed=(2.0, 1.5),
        memory=0.6,
    ),
    "unet_forward_24": Row(
        title="U-Net forward, 8 x 24 x 32 x 24",
        kind="unet",
        size=(24, 32, 24),
        quick=(8, 12, 8),
        channels=8,
        speed=(2.0, 1.5),
        memory=0.6,
    ),
    "unet_step": Row(
        title="U-Net training step, 2 x 4 x 16^3",
        kind="unet",
        size=(16,) * 3,
        quick=(8,) * 3,
        is_step=True,
        has_checkpoints=True,
        has_third=True,
        batch=2,
        speed=(1.5, 1.4),
        memory=0.5,
    ),
    "quantisation": Row(
        title="VQ quantisation, 32^3 positions x 8192 codes",
        kind="quantisation",
        size=(32,) * 3,
        quick=(8,) * 3,
        channels=32,
        precisions=("float32",),
        speed=(5.0, None),
        memory=0.1,
    ),
    "reading": Row(
        title="read, orient, resample, normalise 256^3",
        kind="reading",
        size=(256,) * 3,
        quick=(32,) * 3,
        precisions=("float32",),
        speed=(2.0, None),
        note="memory at most 4 volumes",
    ),
    "stage_2_epoch": Row(
        title="epoch of stage 2, 4 volumes of 64^3",
        kind="stage_2",
        size=(64,) * 3,
        quick=(16,) * 3,
        sides=("encoding in each step", "cached latents"),
        precisions=("float32",),
        steps=4,
        speed=(3.0, None),
    ),
    "sampling_loop": Row(
        title="20 steps of DDIM with guidance",
        kind="loop",
        size=(16,) * 3,
        quick=(8,) * 3,
        sides=("the network alone", "the sampling loop"),
        precisions=("float32",),
        steps=20,
        speed=(0.98, None),
    ),
    "loading": Row(
        title="epoch of stage 1, 4 volumes of 48^3 from files",
        kind="loading",
        size=(48,) * 3,
        quick=(16,) * 3,
        sides=("batches in memory", "the training's loader"),
        precisions=("float32",),
        steps=4,
        speed=(0.95, None),
    ),
    "decode_32": _growth(8),
    "decode_64": _growth(16),
    "decode_96": _growth(24),
    "decode_128": _STREAMING,
    "decode_128_lean": replace(
        _STREAMING, title="decode to 128^3, streaming with `recompute`", recompute=True
    ),
    "sampling": Row(
        title="50-step DDIM, guidance 7.5, 4 x 16^3, decoded",
        kind="sampling",
        size=(16,) * 3,
        quick=(8,) * 3,
        speed=(1.6, 1.6),
        memory=0.5,
    ),
    "autoencoder_step_96": Row(
        title="autoencoder training step, 96^3",
        kind="autoencoder",
        size=(96,) * 3,
        quick=(24,) * 3,
        is_step=True,
        speed=(1.25, 1.4),
        memory=0.5,
    ),
    "decode_256": Row(
        title="decode to 256^3 within 6 GB",
        kind="decode",
        size=(64,) * 3,
        quick=(8,) * 3,
        only_second=True,
        max_memory_gb=5.5,
        precisions=("float32",),
        note="under 6 GB",
    ),
}
"""In the order in which they are measured: cheap rows first, so that a run that is cut has most of them."""

GROWTH = ("decode_32", "decode_64", "decode_96", "decode_128", "decode_256")
"""Rows that show how time and memory of the decoder grow with the volume."""
