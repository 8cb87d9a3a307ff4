"""The command `medldm evaluate`."""

from __future__ import annotations

import argparse
import sys

HELP = "how faithful, useful and private synthetic volumes are: one HTML report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm evaluate`."""
    parser.add_argument("--real-train", required=True, help="cohort that the model was trained on")
    parser.add_argument("--real-test", required=True, help="cohort of subjects that the model never saw")
    parser.add_argument("--synthetic", required=True, help="cohort that the model made")
    parser.add_argument("--output-dir", required=True, help="receives report.html and report.json")
    parser.add_argument(
        "--checkpoint",
        help="latent_diffusion.safetensors that made it: does the model give away its patients?",
    )
    parser.add_argument(
        "--reference-checkpoint",
        help="a second model of the same recipe that saw none of these cases, for membership inference",
    )
    parser.add_argument(
        "--reference-train",
        help="cohort that the second model was trained on: both are then compared on swapped halves",
    )
    parser.add_argument("--text-encoder", help="folder of the text encoder of the model's training")
    parser.add_argument("--device", default="auto", help="where the model runs")
    parser.add_argument(
        "--feature-weights", help="safetensors file of MedicalNet's weights, for published-style distances"
    )
    parser.add_argument(
        "--cache-dir", help="keep features here, without names, for the next evaluation of the same volumes"
    )
    parser.add_argument(
        "--channels", help="contrasts to compare, such as t1n,t2w; those of the synthetic cohort if not given"
    )
    parser.add_argument(
        "--drop-incomplete", action="store_true", help="leave out real cases that lack one of the contrasts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--time-budget",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="for the segmenter trainings of label agreement and usefulness, and a sixth more for the "
        "network that tells real from synthetic; 0 leaves all of them out",
    )
    parser.add_argument(
        "--usefulness-cases",
        default="5,10,20,50",
        metavar="N,N",
        help="numbers of real cases beside which the synthetic ones are tried; none for none",
    )
    parser.add_argument(
        "--fail-on-copies",
        action="store_true",
        help="exit code 4 where more, or nearer, copies are found than chance explains",
    )
    parser.add_argument(
        "--without-real-pictures", action="store_true", help="keep real volumes out of the report"
    )


def _read_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as 5,10; "none" is an empty one."""
    from medldm.errors import ConfigError

    try:
        return () if text == "none" else tuple(int(each) for each in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--usefulness-cases is {text!r}: give numbers such as 5,10, or none") from error


def run_command(options: argparse.Namespace) -> int:
    """Write the report and print its summary; the exit code tells of gaps and of copies."""
    from medldm.data.channels import split_names
    from medldm.evaluation.cases.reading import open_cohort
    from medldm.evaluation.evaluate import EvaluationConfig, evaluate, require_clean, summary_text
    from medldm.evaluation.resources import EvaluationResources
    from medldm.evaluation.sections.classifier_trainings import RealOrSyntheticConfig
    from medldm.evaluation.sections.usefulness import UsefulnessConfig

    config = EvaluationConfig(
        seed=options.seed,
        show_real=not options.without_real_pictures,
        real_or_synthetic=RealOrSyntheticConfig(time_budget_s=options.time_budget / 6),
        usefulness=UsefulnessConfig(
            time_budget_s=options.time_budget, few_cases=_read_numbers(options.usefulness_cases)
        ),
    )
    resources = EvaluationResources(
        model=options.checkpoint,
        reference_model=options.reference_checkpoint,
        reference_train=options.reference_train,
        text_encoder=options.text_encoder,
        device=options.device,
        feature_weights=options.feature_weights,
        cache_dir=options.cache_dir,
    )
    channels = split_names(options.channels)
    real_train, real_test = (
        open_cohort(each, channels=channels, drop_incomplete=options.drop_incomplete)
        for each in (options.real_train, options.real_test)
    )
    synthetic = open_cohort(options.synthetic, channels=channels)
    report = evaluate(real_train, real_test, synthetic, options.output_dir, config, resources=resources)
    sys.stdout.write(summary_text(report) + "\n")
    require_clean(report, fail_on_copies=options.fail_on_copies)
    return 0
