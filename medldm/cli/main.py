"""The command line: `medldm prepare | check | plan | run | generate | evaluate | demo`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from medldm.runtime.allocation import tune_allocation
from medldm.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command is not _run:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tune_allocation()
    try:
        return int(options.command(options))
    except (ValueError, OSError, RuntimeError) as error:
        # Errors of the package name what is wrong and what to do; a traceback would bury that.
        sys.stderr.write(f"error: {error}\n")
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medldm", description="3D latent diffusion for medical images")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    _add_prepare(commands)
    _add_check(commands)
    _add_plan(commands)
    _add_run(commands)
    _add_generate(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    return parser


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("prepare", help="make a cohort from DICOM trees and volume files")
    parser.add_argument("input_dir", help="tree of DICOM files, NIfTI, NRRD, MHA, NumPy volumes")
    parser.add_argument("output_dir", help="receives images/, labels/, cohort.json, labels.json")
    parser.add_argument(
        "--table", help="CSV or TSV of the subjects: id, age, sex, diagnosis, text, split, ..."
    )
    parser.add_argument("--labels", help="label table, or a preset: totalsegmentator, freesurfer")
    parser.add_argument("--key-file", help="secret key of the subject hashes; made where it is missing")
    parser.add_argument("--modality", help="only DICOM series of this modality, such as CT")
    parser.add_argument("--description", help="only DICOM series whose description matches this expression")
    parser.add_argument(
        "--regularise", action="store_true", help="resample irregular DICOM stacks, not refuse them"
    )
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="voxel spacing of .npy files in mm"
    )
    parser.add_argument("--validation-fraction", type=float, default=0.1)
    parser.add_argument("--workers", type=int, help="processes; one for each core if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output")
    parser.set_defaults(command=_prepare)


def _prepare(options: argparse.Namespace) -> int:
    from medldm.data.preparation.prepare import PrepareOptions, prepare

    settings = PrepareOptions(
        labels=options.labels,
        key_file=options.key_file,
        modality=options.modality,
        description=options.description,
        regularise=options.regularise,
        spacing_mm=tuple(options.spacing) if options.spacing else None,
        validation_fraction=options.validation_fraction,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    result = prepare(options.input_dir, options.output_dir, table=options.table, options=settings)
    sys.stdout.write(result.table() + "\n")
    return result.exit_code


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="check a cohort before training on it")
    parser.add_argument("dataset_dir", help="folder with images/ and labels/, or a MONAI datalist JSON")
    parser.add_argument("--fast", action="store_true", help="read headers only, not every voxel")
    parser.add_argument("--json", action="store_true", help="print the issues as JSON")
    parser.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> int:
    from medldm.data.checks import run_check

    text, code = run_check(options.dataset_dir, full=not options.fast, as_json=options.json)
    sys.stdout.write(text + "\n")
    return code


def _add_plan(commands: argparse._SubParsersAction) -> None:
    from medldm.cli.plan import add_arguments, run_command

    parser = commands.add_parser("plan", help="what fits a memory, and how long it takes, without a run")
    add_arguments(parser)
    parser.set_defaults(command=run_command)


def _add_run(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "run",
        help="check a bundle's config and run it",
        description="Further arguments are those of `python -m monai.bundle run`: --config_file, --KEY ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--trusted-bundle", action="store_true", help="do not check; the config can run any code it names"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from medldm.bundle_sandbox import run_command

    run_command(options.rest, is_trusted=options.trusted_bundle)
    return 0


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("generate", help="make synthetic volumes with a trained model")
    parser.add_argument("checkpoint", help="latent_diffusion.safetensors of the second stage")
    parser.add_argument("output_dir", help="receives images/, labels/ and sidecars/")
    parser.add_argument("--label-dir", help="folder of label maps to condition on")
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
    parser.add_argument("--index", type=int, default=0, help="index of the first volume of the seed")
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--preset", default="balanced", help="fast, balanced or reference")
    parser.add_argument("--num-steps", type=int, help="the preset's if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace volumes that exist")
    parser.add_argument("--device", default="auto")
    parser.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    from medldm.generation.engine import SamplingConfig, generate

    labels = _draw_labels(options) if options.labelmap_checkpoint else None
    paths = generate(
        options.checkpoint,
        options.output_dir,
        label_dir=options.label_dir,
        labels=labels,
        num_samples=options.num_samples,
        first_index=options.index,
        label_table=options.label_table,
        conditions=options.conditions,
        text_encoder=options.text_encoder,
        sampling=SamplingConfig(
            seed=options.seed,
            guidance_scale=options.guidance_scale,
            preset=options.preset,
            num_steps=options.num_steps,
        ),
        overwrite=options.overwrite,
        device=options.device,
    )
    sys.stdout.write(f"{len(paths)} volumes in {options.output_dir}\n")
    return 0


def _draw_labels(options: argparse.Namespace) -> list[str]:
    from medldm.label_maps.choice import draw_for_images
    from medldm.latent_diffusion.model_files import load_latent_diffusion

    if options.label_dir:
        raise ValueError("--label-dir and --labelmap-checkpoint both name label maps: give one of them")
    model, _, _ = load_latent_diffusion(options.checkpoint)
    return draw_for_images(
        model,
        checkpoint=options.labelmap_checkpoint,
        output_dir=options.output_dir,
        num_samples=options.num_samples,
        first_index=options.index,
        seed=options.seed,
        overwrite=options.overwrite,
        device=options.device,
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate", help="how faithful, useful and private synthetic volumes are: one HTML report"
    )
    parser.add_argument("--real-train", required=True, help="cohort that the model was trained on")
    parser.add_argument("--real-test", required=True, help="cohort of subjects that the model never saw")
    parser.add_argument("--synthetic", required=True, help="cohort that the model made")
    parser.add_argument("--out", required=True, help="receives report.html and report.json")
    parser.add_argument(
        "--model", help="latent_diffusion.safetensors that made it: does the model give away its patients?"
    )
    parser.add_argument("--text-encoder", help="folder of the text encoder of the model's training")
    parser.add_argument("--device", default="auto", help="where the model runs")
    parser.add_argument(
        "--feature-weights", help="safetensors file of MedicalNet's weights, for published-style distances"
    )
    parser.add_argument(
        "--cache-dir", help="keep features here, without names, for the next evaluation of the same volumes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--time-budget",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="for the segmenter trainings of label agreement and usefulness; 0 leaves them out",
    )
    parser.add_argument(
        "--fail-on-copies",
        action="store_true",
        help="exit code 4 where more, or nearer, copies are found than chance explains",
    )
    parser.add_argument(
        "--without-real-pictures", action="store_true", help="keep real volumes out of the report"
    )
    parser.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from medldm.evaluation.evaluate import EvaluationConfig, evaluate, exit_code, summary_text
    from medldm.evaluation.resources import EvaluationResources
    from medldm.evaluation.sections.usefulness import UsefulnessConfig

    config = EvaluationConfig(
        seed=options.seed,
        show_real=not options.without_real_pictures,
        usefulness=UsefulnessConfig(time_budget_s=options.time_budget),
    )
    resources = EvaluationResources(
        model=options.model,
        text_encoder=options.text_encoder,
        device=options.device,
        feature_weights=options.feature_weights,
        cache_dir=options.cache_dir,
    )
    report = evaluate(
        options.real_train, options.real_test, options.synthetic, options.out, config, resources=resources
    )
    sys.stdout.write(summary_text(report) + "\n")
    return exit_code(report, fail_on_copies=options.fail_on_copies)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo", help="from nothing to labelled synthetic brains in ten minutes on a CPU"
    )
    parser.add_argument("--output", default="demo_output", help="folder that receives everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    from medldm.demo.run import run_demo

    sys.stdout.write(run_demo(options.output, seed=options.seed) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
