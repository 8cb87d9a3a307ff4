"""The command `medldm generate`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medldm.configs import read_switch
from medldm.errors import ConfigError

if TYPE_CHECKING:
    from medldm.generation.engine import GenerationEvaluator
    from medldm.sampling.config import SamplingConfig

HELP = "make synthetic volumes with a trained model"
DRAWN_SAMPLES = 4
"""Volumes where nothing says how many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm generate`."""
    parser.add_argument(
        "checkpoint",
        metavar="MODEL",
        help="a bundle that is installed with weights, such as mri_label_ldm (`medldm models` lists them), "
        "the folder of a bundle or of a training, or a latent_diffusion.safetensors",
    )
    parser.add_argument("output_dir", help="receives images/, labels/ and sidecars/")
    parser.add_argument("--label-dir", help="folder of label maps to condition on")
    parser.add_argument(
        "--unconditional",
        action="store_true",
        help="make volumes without label maps with a model of label maps; the output is an unlabelled cohort",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        help="volumes to make; one for each label map if not given, 4 of a bundle that draws its label maps",
    )
    parser.add_argument(
        "--labelmap-checkpoint",
        help="draw new label maps with this model of labelmap_ldm; that of a bundle if not given",
    )
    parser.add_argument(
        "--label-table", help="values of the label maps to those of the model: a file or preset"
    )
    parser.add_argument(
        "--structures-in-map",
        help="names of the structures that the label maps cover, a,b,c; the others are unknown",
    )
    parser.add_argument(
        "--conditions", help="JSON file with the values of other conditions, one entry or a list"
    )
    parser.add_argument("--text-encoder", help="folder of the text encoder of the training")
    parser.add_argument(
        "--seed", type=int, default=0, help="volume i of a seed is always the same (default: 0)"
    )
    parser.add_argument(
        "--first-index", type=int, default=0, help="index of the first volume of the seed (default: 0)"
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        default=1.0,
        help="above 1 follows conditions more closely (default: 1)",
    )
    parser.add_argument(
        "--preset",
        default="balanced",
        help="fast, balanced or reference: solver and steps (default: balanced)",
    )
    parser.add_argument("--num-steps", type=int, help="the preset's if not given")
    parser.add_argument(
        "--texture",
        default="auto",
        type=_read_texture,
        help="auto draws the fine grain that the decoder leaves out, noise and not anatomy; false draws none",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace volumes that exist")
    parser.add_argument(
        "--channel-endings",
        default="name",
        choices=("name", "number"),
        help="of the files of several channels: their names, or 0000, 0001, ... as nnU-Net has them",
    )
    parser.add_argument(
        "--overview",
        action=argparse.BooleanOptionalAction,
        help="draw the volumes in overview.png; done for a bundle if not given",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def run_command(options: argparse.Namespace) -> int:
    """Make the volumes."""
    from medldm.generation.engine import set_up_generation
    from medldm.sharing.sources import find_source

    source = find_source(options.checkpoint)
    if source.makes_label_maps:
        return _make_label_maps(options, source.checkpoint)
    options.checkpoint = source.checkpoint
    if source.needs_label_maps and not (options.label_dir or options.unconditional):
        options.labelmap_checkpoint = options.labelmap_checkpoint or source.label_maps
        options.num_samples = options.num_samples or DRAWN_SAMPLES
    labels = _draw_labels(options) if options.labelmap_checkpoint else None
    evaluator = set_up_generation(
        options.checkpoint,
        options.output_dir,
        label_dir=options.label_dir,
        labels=labels,
        unconditional=options.unconditional,
        num_samples=options.num_samples,
        first_index=options.first_index,
        label_table=options.label_table,
        structures_in_map=options.structures_in_map,
        conditions=options.conditions,
        text_encoder=options.text_encoder,
        sampling=_read_sampling(options),
        overwrite=options.overwrite,
        channel_endings=options.channel_endings,
        device=options.device,
    )
    evaluator.run()
    lines = [f"{len(evaluator.written)} volumes in {options.output_dir}"]
    if source.is_bundle if options.overview is None else options.overview:
        lines.append(f"look at {_draw_overview(evaluator)}")
    lines += [f"{'warning' if note.is_warning else 'note'}: {note.text}" for note in evaluator.notes]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _draw_overview(evaluator: GenerationEvaluator) -> Path:
    """Draw the volumes that were written; of several channels the first."""
    from medldm.evaluation.report.generated_overview import OVERVIEW_FILE, draw_generated

    folder, written = evaluator.writer.output_dir, set(evaluator.written)
    images = [(index, evaluator.writer.files_of(index)[0]) for index in evaluator.indices]
    labels = [folder / "labels" / evaluator.writer.file_of(index).name for index, _ in images]
    files = [
        (image, label if label.is_file() else None)
        for (_, image), label in zip(images, labels, strict=True)
        if image in written
    ]
    return draw_generated(files, folder / OVERVIEW_FILE, schema=evaluator.preparer.schema)


def _make_label_maps(options: argparse.Namespace, checkpoint: Path) -> int:
    """Make label maps with a bundle of them."""
    from medldm.label_maps.generation import generate_label_maps

    files = generate_label_maps(
        checkpoint,
        options.output_dir,
        num_samples=options.num_samples or DRAWN_SAMPLES,
        first_index=options.first_index,
        conditions=options.conditions,
        sampling=_read_sampling(options),
        overwrite=options.overwrite,
        device=options.device,
    )
    sys.stdout.write(f"{len(files)} label maps in {options.output_dir}\n")
    return 0


def _read_sampling(options: argparse.Namespace) -> SamplingConfig:
    """Return the settings of the sampler, of images and of label maps alike."""
    from medldm.sampling.config import SamplingConfig

    fields = {field.name for field in dataclasses.fields(SamplingConfig)}
    return SamplingConfig(**{name: value for name, value in vars(options).items() if name in fields})


def _read_texture(value: str) -> bool | Literal["auto"]:
    return "auto" if value == "auto" else read_switch(value, name="texture")


def _draw_labels(options: argparse.Namespace) -> list[str]:
    from medldm.label_maps.choice import draw_for_images
    from medldm.latent_diffusion.model_files import load_latent_diffusion

    if options.label_dir or options.unconditional:
        other = "--label-dir" if options.label_dir else "--unconditional"
        raise ConfigError(f"{other} and --labelmap-checkpoint exclude each other: give one of them")
    model, _, _ = load_latent_diffusion(options.checkpoint)
    return draw_for_images(
        model,
        checkpoint=options.labelmap_checkpoint,
        output_dir=options.output_dir,
        num_samples=options.num_samples,
        first_index=options.first_index,
        seed=options.seed,
        overwrite=options.overwrite,
        device=options.device,
    )
