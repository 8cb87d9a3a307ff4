"""What the bundles' workflows call: package checks, seeds, and inputs whose errors end the run in one
message.

MONAI wraps whatever a component raises into errors of its own, so that a list of wrong files drowns in a
traceback. The functions here end the process with the plain message and the exit code 1; Python code calls
the functions they wrap, which raise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from packaging.version import Version

from medldm import training
from medldm.conditioning import ConditioningConfig, open_text_encoder
from medldm.conditioning.config import read_names
from medldm.editing import files as edit_files
from medldm.evaluation import quality_gate
from medldm.generation import engine as generation
from medldm.label_maps import choice as label_map_choice
from medldm.label_maps import generation as label_map_synthesis
from medldm.latent_diffusion import label_maps, model_files
from medldm.runtime import distributed
from medldm.runtime.allocation import tune_allocation
from medldm.seeds import seed_everything
from medldm.training.resume.resumable_trainer import ResumableTrainer

if TYPE_CHECKING:
    from medldm.conditioning.text_encoder import TextEncoder

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _ends_in_a_message(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError, RuntimeError) as error:
            raise SystemExit(f"error: {error}") from error

    return run


def _in_one_process(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if distributed.world_size() > 1:
            raise ValueError(
                f"this workflow runs in one process, not in {distributed.world_size()}: leave out torchrun"
            )
        return function(*args, **kwargs)

    return run


encode_cases = _ends_in_a_message(training.encode_cases)
open_cohort = _ends_in_a_message(training.open_cohort)
make_latent_diffusion = _ends_in_a_message(model_files.make_latent_diffusion)
load_latent_diffusion = _ends_in_a_message(model_files.load_latent_diffusion)
choose_label_maps = _ends_in_a_message(label_map_choice.choose_label_maps)
conditioning_of = _ends_in_a_message(training.conditioning_of)
make_evaluator = _ends_in_a_message(generation.GenerationEvaluator)
init_distributed = _ends_in_a_message(distributed.init_distributed)
make_editor = _ends_in_a_message(_in_one_process(edit_files.make_editor))
require_schema = _ends_in_a_message(label_maps.require_schema)
load_label_map_model = _ends_in_a_message(label_maps.load_label_map_model)
make_label_map_diffusion = _ends_in_a_message(label_maps.make_label_map_diffusion)
make_label_map_generator = _ends_in_a_message(label_map_synthesis.LabelMapGenerator)
make_preparer = _ends_in_a_message(generation.make_preparer)
make_quality_gate = _ends_in_a_message(quality_gate.make_quality_gate)
make_dataset = _ends_in_a_message(generation.GenerationDataset)


@_ends_in_a_message
def text_encoder_for(
    conditions: Sequence[str] | ConditioningConfig,
    directory: str | None = None,
    cache_dir: str | None = None,
) -> TextEncoder | None:
    """Open the text encoder where the conditions name "text".

    Args:
        conditions: names, before a training; or those of a trained model, whose encoder it must be.
        directory: of the encoder; None for the default one.
        cache_dir: where embeddings are kept between runs.
    """
    if isinstance(conditions, ConditioningConfig):
        names, identity = conditions.conditioning_type, conditions.text_encoder
    else:
        names, identity = read_names(conditions), None
    if "text" not in names:
        return None
    return open_text_encoder(directory, identity=identity, cache_dir=cache_dir)


_FIRST_TO_END_S = 1.0
"""torchrun looks every 0.1 s which process has ended and names one as the cause; the others wait for that."""


@contextmanager
def _among_ranks() -> Iterator[None]:
    """Leave the other processes at the end, and say so where one of them is the cause of an error."""
    try:
        yield
    except SystemExit:
        distributed.close_distributed()
        raise
    except RuntimeError as error:
        if not distributed.is_connection_lost(error):
            raise
        time.sleep(_FIRST_TO_END_S)
        raise RuntimeError(
            f"process {distributed.rank()} of {distributed.world_size()} lost touch with another one "
            f"({error}). Its error above, or torchrun's summary below, names the cause; a training goes on "
            "from its last saved state when the same command is run again"
        ) from error
    distributed.close_distributed()


@_ends_in_a_message
def run_training(trainer: ResumableTrainer) -> None:
    """Train; exit code 75 after SIGTERM or SIGUSR1, 130 after Ctrl-C, 1 with a message after an error."""
    with _among_ranks():
        trainer.run()


@_ends_in_a_message
def run_generation(evaluator: generation.GenerationEvaluator) -> None:
    """Generate all volumes; exit code 1 with a message after an error."""
    with _among_ranks():
        evaluator.run()


def check_required_packages(required: Mapping[str, str]) -> None:
    """Refuse to run with packages older than a bundle asks for; MONAI reads these versions but checks none.

    Args:
        required: package name to the oldest version that will do.

    Raises:
        RuntimeError: listing every package that is missing or too old.
    """
    problems = []
    for name, oldest in required.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed ({oldest} or newer is needed)")
            continue
        if Version(found) < Version(oldest):
            problems.append(f"{name} is {found} ({oldest} or newer is needed)")
    if problems:
        raise RuntimeError("this bundle cannot run here: " + "; ".join(problems))


@_ends_in_a_message
def initialise_run(*, required_packages: Mapping[str, str], seed: int) -> None:
    """Check the packages, tune the allocator and seed all generators; every workflow begins with it."""
    check_required_packages(required_packages)
    distributed.require_distributed()
    tune_allocation()
    seed_everything(seed)
    logger.info("seed %d", seed)
