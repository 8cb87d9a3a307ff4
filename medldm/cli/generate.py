"""The command `medldm generate`."""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from medldm.configs import read_switch
from medldm.errors import ConfigError

HELP = "make synthetic volumes with a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm generate`."""
    parser.add_argument("checkpoint", help="latent_diffusion.safetensors of the second stage")
    parser.add_argument("output_dir", help="receives images/, labels/ and sidecars/")
    parser.add_argument("--label-dir", help="folder of label maps to condition on")
    parser.add_argument(
        "--unconditional",
        action="store_true",
        help="make volumes without label maps with a model of label maps; the output is an unlabelled cohort",
    )
    parser.add_argument(
        "--num-samples", type=int, help="volumes to make; one for each label map if not given"
    )
    parser.add_argument("--labelmap-checkpoint", help="draw new label maps with this model of labelmap_ldm")
    parser.add_argument(
        "--label-table", help="values of the label maps to those of the model: a file or preset"
    )
    parser.add_argument(
        "--conditions", help="JSON file with the values of other conditions, one entry or a list"
    )
    parser.add_argument("--text-encoder", help="folder of the text encoder of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-index", type=int, default=0, help="index of the first volume of the seed")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--preset", default="balanced", help="fast, balanced or reference")
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
    parser.add_argument("--device", default="auto")


def run_command(options: argparse.Namespace) -> int:
    """Make the volumes."""
    from medldm.generation.engine import SamplingConfig, set_up_generation

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
        conditions=options.conditions,
        text_encoder=options.text_encoder,
        sampling=SamplingConfig(
            seed=options.seed,
            guidance_scale=options.guidance_scale,
            preset=options.preset,
            num_steps=options.num_steps,
            texture=options.texture,
        ),
        overwrite=options.overwrite,
        channel_endings=options.channel_endings,
        device=options.device,
    )
    evaluator.run()
    lines = [f"{len(evaluator.written)} volumes in {options.output_dir}"]
    lines += [f"{'warning' if note.is_warning else 'note'}: {note.text}" for note in evaluator.notes]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


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
