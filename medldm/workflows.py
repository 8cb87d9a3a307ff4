"""What the bundles' workflows call: package checks, seeds, inputs, and the runs themselves.

All of it raises; `medldm.runtime.endings` says how a command line ends then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from packaging.version import Version

from medldm.conditioning import ConditioningConfig, open_text_encoder
from medldm.conditioning.config import read_names
from medldm.data.cohort import Cohort
from medldm.errors import MissingPackageError
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.evaluate import evaluate, require_clean
from medldm.evaluation.resources import EvaluationResources
from medldm.generation.engine import GenerationEvaluator
from medldm.runtime import distributed
from medldm.runtime.allocation import tune_allocation
from medldm.runtime.bundle_keys import check_command_of_monai
from medldm.runtime.endings import end_as_medldm_does
from medldm.runtime.output_lock import hold_output
from medldm.seeds import seed_everything
from medldm.training.resume.preemption import TrainingStopped
from medldm.training.resume.resumable_trainer import ResumableTrainer

if TYPE_CHECKING:
    from medldm.conditioning.text_encoder import TextEncoder

logger = logging.getLogger(__name__)


def text_encoder_for(
    conditions: Sequence[str] | ConditioningConfig, directory: str | None = None, cache_dir: str | None = None
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
def _among_processes() -> Iterator[None]:
    """Leave the other processes at the end, and say so where one of them is the cause of an error."""
    try:
        yield
    except TrainingStopped:
        distributed.close_distributed()
        raise
    except RuntimeError as error:
        if not distributed.is_connection_lost(error):
            raise
        time.sleep(_FIRST_TO_END_S)
        raise distributed.DistributedError(
            f"process {distributed.rank()} of {distributed.world_size()} lost touch with another one "
            f"({error}). Its error above, or torchrun's summary below, names the cause; a training goes on "
            "from its last saved state when the same command is run again"
        ) from error
    distributed.close_distributed()


class RunsAfter(Protocol):
    """What comes after a training, such as `DecoderAdaptation` or `TextureFitting`."""

    def run(self) -> None:
        """Run; every process takes part."""


def run_training(trainer: ResumableTrainer, *, then: Sequence[RunsAfter] = ()) -> None:
    """Train.

    Args:
        trainer: of the workflow.
        then: what follows when it has ended, in this order.

    Raises:
        FolderInUseError: where another run writes into the output folder.
        TrainingStopped: after SIGTERM, SIGUSR1 or Ctrl-C, with the exit code of a command that ends so.
        DistributedError: where another process is gone.
    """
    with _among_processes(), trainer.alone():
        trainer.run()
        for further in then:
            further.run()


def run_generation(evaluator: GenerationEvaluator) -> None:
    """Generate all volumes.

    Raises:
        FolderInUseError: where another run writes into the output folder.
        DistributedError: where another process is gone.
    """
    with _among_processes():
        evaluator.run()


def run_evaluation(
    real_train: str | Path | Cohort,
    real_test: str | Path | Cohort,
    synthetic: str | Path | Cohort,
    output_dir: str | Path,
    *,
    config: EvaluationConfig | None = None,
    resources: EvaluationResources | None = None,
    fail_on_copies: bool = False,
) -> None:
    """Evaluate a synthetic cohort, and raise where the report has gaps or copies were found.

    Args:
        real_train: as in `medldm.evaluation.evaluate`, like the following.
        real_test: of subjects that the model never saw.
        synthetic: cohort that the model made.
        output_dir: receives report.json and report.html.
        config: settings.
        resources: the model, and whatever else is used beside the cohorts.
        fail_on_copies: whether copies are a failure.

    Raises:
        ReportError: of `require_clean`, with the exit code of a command that ends so; the report is written.
    """
    report = evaluate(real_train, real_test, synthetic, output_dir, config, resources=resources)
    require_clean(report, fail_on_copies=fail_on_copies)


def _begin_command() -> None:
    """End as `medldm` does where MONAI's command line began the process, and refuse keys nobody reads."""
    end_as_medldm_does()
    check_command_of_monai()


def init_distributed(*, device: str = "auto", timeout_minutes: float = 30.0) -> None:
    """Join the processes that torchrun started, as `medldm.runtime.distributed.init_distributed` does."""
    _begin_command()
    distributed.init_distributed(device=device, timeout_minutes=timeout_minutes)


def initialise_distributed_run(*, device: str, timeout_minutes: float, **options: Any) -> None:
    """Begin a workflow in each of the processes that torchrun started; what `multi_gpu.yaml` begins with.

    Args:
        device: as of `medldm.runtime.distributed.init_distributed`, like `timeout_minutes`.
        timeout_minutes: that one process waits for another.
        options: of `initialise_run`.

    Raises:
        ConfigError: for a key that the config does not have, or a time that is none.
        DeviceError: as `medldm.runtime.distributed.init_distributed`.
        MissingPackageError: listing every package that is missing or too old.
    """
    init_distributed(device=device, timeout_minutes=timeout_minutes)
    initialise_run(**options)


def check_required_packages(required: Mapping[str, str]) -> None:
    """Refuse to run with packages older than a bundle asks for; MONAI reads these versions but checks none.

    Args:
        required: package name to the oldest version that will do.

    Raises:
        MissingPackageError: listing every package that is missing or too old.
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
        raise MissingPackageError("this bundle cannot run here: " + "; ".join(problems))


def initialise_run(
    *, required_packages: Mapping[str, str], seed: int, output_dir: str | Path | None = None
) -> None:
    """Check keys and packages, tune the allocator and seed all generators; every workflow begins with it.

    Args:
        required_packages: as of `check_required_packages`.
        seed: of all generators.
        output_dir: of a training: held from here on to its end, so that a second one is refused at once, not
            when its latents are cached; None where what runs takes its folder itself.

    Raises:
        FolderInUseError: where another run writes into the output folder.
        ConfigError: for a key of the command line that the bundle's config does not have.
        MissingPackageError: listing every package that is missing or too old.
    """
    _begin_command()
    check_required_packages(required_packages)
    distributed.require_distributed()
    if output_dir is not None:
        hold_output(output_dir, work="training")
    tune_allocation()
    seed_everything(seed)
    logger.info("seed %d", seed)
