"""What crash safety costs in training time: the same training with all of it and without, in turns.

    python benchmarks/overhead.py                             # both stages, 60 s each on an idle core
    python benchmarks/overhead.py --stage diffusion --seconds 120
    python benchmarks/overhead.py --write docs/results/training.md

With: `TrainingStateHandler`, seeds for each case, guarded transforms, quarantine, checks of loss and
gradient. Without: a plain loader, nothing that saves, and steps that scale, clip and step only. The median
processor time of a batch is compared, which other processes hardly change. A batch in which a state is saved
is left out, since savings are rare: their time on the clock is measured apart, as a share of the ten minutes
between two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import CacheDataset
from monai.transforms import Compose
from pages import table, write_between_marks
from side_by_side import describe_machine
from torch import nn
from torch.utils.data import DataLoader

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig
from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VAEConfig
from medldm.seeds import seed_everything
from medldm.training import (
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainingConfig,
    GuardedTransforms,
    LatentDataset,
    OptimiserStep,
    Quarantine,
    RunConfig,
    TrainingStateHandler,
    build_autoencoder_training,
    build_diffusion_training,
)
from medldm.training.volumes import RandomPatchd

AUTOENCODER = VAEConfig(down_channels=(8, 16, 32), n_groups=8, mid_attention=False)
UNET = LatentUNetConfig(down_channels=(32, 64), n_groups=32, n_heads=4)
PATCH, LATENTS, N_CASES = (32, 32, 32), (4, 8, 8, 8), 12
MINUTES = 10.0
"""Between two savings, the default of the bundles."""


class BareStep(OptimiserStep):
    """A step without a check."""

    def prepare(self, module: nn.Module, *, index: int) -> None:
        """Remember nothing."""

    def _step(self) -> bool:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(list(self._parameters()), self.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return True


def main() -> None:
    """Measure the chosen stages; print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=("autoencoder", "diffusion"), help="both if not given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each stage")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    stages = [options.stage] if options.stage else ["autoencoder", "diffusion"]
    header = (
        "stage",
        "batches of each",
        "batch without",
        "batch with",
        "checks cost",
        "a save",
        "all in all",
    )
    text = table(header, [measure(stage, options.seconds) for stage in stages])
    text = f"{describe_machine('cpu')}\n\n{text}"
    if options.write:
        write_between_marks(options.write, "overhead", text)
    sys.stdout.write(text + "\n")


def measure(stage: str, seconds: float) -> tuple[str, ...]:
    """Train with and without in turns; return a row of the table."""
    make = {"autoencoder": make_first_stage, "diffusion": make_second_stage}[stage]
    times: dict[bool, list[float]] = {True: [], False: []}
    saves: list[float] = []
    deadline, turn = time.monotonic() + seconds, 0
    while turn < 2 or time.monotonic() < deadline:
        with tempfile.TemporaryDirectory() as folder:
            for is_safe in (True, False) if turn % 2 else (False, True):
                found = time_batches(make(Path(folder), is_safe=is_safe), saves)
                times[is_safe] += found if turn else []
        turn += 1
    bare, safe = statistics.median(times[False]), statistics.median(times[True])
    save = statistics.median(saves)
    checks, saving = safe / bare - 1, save / max(60 * MINUTES, 100 * save)
    return (
        stage,
        str(len(times[True])),
        f"{1000 * bare:.1f} ms",
        f"{1000 * safe:.1f} ms",
        f"{100 * checks:+.2f} %",
        f"{save:.2f} s, {100 * saving:.2f} % of {MINUTES:g} minutes",
        f"{100 * (checks + saving):+.2f} %",
    )


def time_batches(trainer: Any, saves: list[float]) -> list[float]:
    """Return the processor seconds from each batch's end to the next one's, those with a save left out."""
    moments: list[float] = []
    state_handler = trainer.state_handler
    if state_handler is not None:
        save = state_handler.folders.save

        def timed_save(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            path = save(*args, **kwargs)
            saves.append(time.perf_counter() - start)
            return path

        state_handler.folders.save = timed_save
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: moments.append(time.process_time()))
    trainer.run()
    # The first batch makes the optimiser's state, the last one is followed by a save.
    return [end - start for start, end in pairwise(moments[:-1])]


def make_first_stage(folder: Path, *, is_safe: bool) -> Any:
    """Build the training of a VAE and its discriminator on patches."""
    seed_everything(0)
    shape = (1, *(n + 8 for n in PATCH))
    cases = [{"image": torch.rand(shape) * 2 - 1} for _ in range(N_CASES)]
    transforms = Compose([RandomPatchd(("image",), PATCH)])
    guarded = GuardedTransforms(transforms, size=shape[1:]) if is_safe else transforms
    quarantine, handlers = _keep(folder, is_safe=is_safe)
    trainer = build_autoencoder_training(
        make_autoencoder(AUTOENCODER),
        CacheDataset(cases, guarded, progress=False),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=0)),
        discriminator=PatchDiscriminator(PatchDiscriminatorConfig()),
        config=AutoencoderTrainingConfig(n_epochs=1),
        run=RunConfig(batch_size=1),
        quarantine=quarantine,
        handlers=handlers,
    ).trainer
    return trainer if is_safe else _bare(trainer, ("_step", "_discriminator_step"))


def make_second_stage(folder: Path, *, is_safe: bool) -> Any:
    """Build the training of a denoiser on latents."""
    seed_everything(0)
    model = LatentDiffusionModel(
        autoencoder_config=AUTOENCODER,
        conditioning_config=ConditioningConfig(conditioning_type=("class",), num_classes=2),
        unet_config=UNET,
    )
    entries: list[Any] = [
        {"mean": torch.randn(LATENTS), "std": torch.rand(LATENTS), "class": torch.tensor(i % 2)}
        for i in range(2 * N_CASES)
    ]
    quarantine, handlers = _keep(folder, is_safe=is_safe)
    trainer = build_diffusion_training(
        model,
        LatentDataset(entries),
        config=LatentDiffusionConfig(n_epochs=1),
        run=RunConfig(batch_size=2),
        quarantine=quarantine,
        handlers=handlers,
    ).trainer
    return trainer if is_safe else _bare(trainer, ("_step",))


def _keep(folder: Path, *, is_safe: bool) -> tuple[Quarantine | None, list[Any]]:
    if not is_safe:
        return None, []
    quarantine = Quarantine()
    return quarantine, [TrainingStateHandler(folder / "state", every_minutes=MINUTES, quarantine=quarantine)]


def _bare(trainer: Any, names: tuple[str, ...]) -> Any:
    """Give a training a plain loader and steps without checks."""
    loader = trainer.data_loader
    batch_size, data = loader.batch_sampler.batch_size, getattr(loader.dataset, "dataset", loader.dataset)
    trainer.data_loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    for name in names:
        own: OptimiserStep = getattr(trainer, name)
        setattr(trainer, name, BareStep(own.optimizer, scaler=own.scaler, gradient_clip=own.gradient_clip))
    return trainer


if __name__ == "__main__":
    main()
