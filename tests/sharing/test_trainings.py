"""`medldm train` says what `medldm run` is told, refuses early, and ends and goes on as `medldm run` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medldm import bundle_sandbox
from medldm.cli.main import main
from medldm.sharing import shipped
from medldm.sharing.copies import copy_bundle
from medldm.sharing.shipped import BUNDLES_DIR, find_bundle
from medldm.training.resume.preemption import TrainingStopped
from tests.bundles.test_mri_label_ldm import TINY_1, TINY_2
from tests.programs import run_python


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let `medldm run` be told, and not run."""
    runs: list[list[str]] = []

    def listen(arguments: list[str], *, is_trusted: bool) -> None:
        assert not is_trusted
        runs.append(list(arguments))

    monkeypatch.setattr(bundle_sandbox, "run_command", listen)
    return runs


def value_of(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(f"--{name}") + 1]


@pytest.mark.parametrize(
    ("choice", "bundle", "stages"),
    [
        ("autoencoder", "mri_label_ldm", ["autoencoder"]),
        ("diffusion", "mri_label_ldm", ["diffusion"]),
        ("all", "mri_label_ldm", ["autoencoder", "diffusion"]),
        ("labelmap", "labelmap_ldm", ["autoencoder", "diffusion"]),
    ],
)
def test_each_choice_runs_its_workflows(choice, bundle, stages, told, tmp_path) -> None:
    assert main(["train", choice, str(tmp_path), "out", "--seed", "7"]) == 0
    assert [value_of(each, "config_file") for each in told] == [
        str(BUNDLES_DIR / bundle / "configs" / f"train_{stage}.yaml") for stage in stages
    ]
    for arguments in told:
        assert value_of(arguments, "bundle_root") == str(BUNDLES_DIR / bundle)
        assert value_of(arguments, "dataset_dir") == str(tmp_path)
        assert value_of(arguments, "output_dir") == "out"
        assert value_of(arguments, "seed") == "7"


def test_knobs_go_to_the_stage_that_has_them(told, tmp_path) -> None:
    words = ["--size", "[8,8,8]", "--dropout=0.1", "--precision", "float32"]
    own = ["--autoencoder", "n_steps=3", "down_channels=[4,8]", "--diffusion", "n_steps=5"]
    assert main(["train", "all", str(tmp_path), "out", *words, *own]) == 0
    first, second = told
    assert first[8:] == [
        "--n_steps",
        "3",
        "--down_channels",
        "[4,8]",
        "--size",
        "[8,8,8]",
        "--precision",
        "float32",
    ]
    assert second[8:] == ["--n_steps", "5", "--dropout", "0.1", "--precision", "float32"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["all", "COHORT", "out", "--n_steps", "5"], "--autoencoder n_steps=VALUE --diffusion n_steps=VALUE"),
        (["all", "COHORT", "out", "--n_stps", "5"], "'n_stps'"),
        (["autoencoder", "COHORT", "out", "--dropout", "0.1"], "'dropout'"),
        (["autoencoder", "COHORT", "out", "--diffusion", "dropout=0.1"], "trains ['autoencoder'] alone"),
        (["all", "COHORT", "out", "--autoencoder", "n_steps"], "no KNOB=VALUE"),
        (["all", "COHORT", "out", "--autoencoder", "output_dir=x"], "--output_dir is set by"),
        (["diffusion", "COHORT", "out", "--bundle_root", "x"], "--bundle_root is set by"),
        (["diffusion", "COHORT", "out", "more"], "give knobs as --name value"),
        (["diffusion", "none", "out"], "no cohort at none"),
        (["all", "COHORT", "out", "--bundle", "mri"], "Unknown bundle 'mri'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(words, message, told, tmp_path, capsys) -> None:
    assert main(["train", *(word.replace("COHORT", str(tmp_path)) for word in words)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and told == []


def test_both_stages_start_from_the_weights_of_a_named_bundle(told, tmp_path, monkeypatch, capsys) -> None:
    train = ["train", "all", str(tmp_path), "out", "--start_from", "mri_label_ldm"]
    installed = tmp_path / "installed"
    copy_bundle(find_bundle("mri_label_ldm"), installed / "mri_label_ldm")
    monkeypatch.setattr(shipped, "BUNDLES_DIR", installed)
    assert main(train) == 1
    assert "the bundle mri_label_ldm has no weights yet" in capsys.readouterr().err
    record = tmp_path / "out" / "state" / "diffusion" / "started_from.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    monkeypatch.chdir(tmp_path)
    begun = ["train", "diffusion", str(tmp_path), "out", "--start_from", "mri_label_ldm"]
    assert main(begun) == 0 and value_of(told.pop(), "start_from").endswith("latent_diffusion.safetensors")
    weights = find_bundle("mri_label_ldm").model
    weights.write_bytes(b"")
    assert main(train) == 0
    assert [value_of(each, "start_from") for each in told] == [str(weights)] * 2
    assert main([*train[:5], "trained/latent_diffusion.safetensors"]) == 0
    assert value_of(told[-1], "start_from") == "trained/latent_diffusion.safetensors"


def test_processes_of_torchrun_get_the_overlay_and_train_one_stage(
    told, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "diffusion", str(tmp_path), "out", "--timeout_minutes", "3"]) == 0
    assert "multi_gpu.yaml" in value_of(told[0], "config_file")
    assert main(["train", "all", str(tmp_path), "out"]) == 1
    assert "run medldm train autoencoder" in capsys.readouterr().err


def test_what_stops_a_stage_stops_the_command_with_its_code(tmp_path, monkeypatch) -> None:
    def stop(arguments: list[str], *, is_trusted: bool) -> None:
        raise TrainingStopped("SIGTERM: the state after batch 2 is saved", exit_code=75)

    monkeypatch.setattr(bundle_sandbox, "run_command", stop)
    assert main(["train", "all", str(tmp_path), "out"]) == 75


STOPPED = """
import os, signal, sys
from ignite.engine import Events
from monai.engines import Trainer
run = Trainer.run
def run_and_stop(self):
    self.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: os.kill(os.getpid(), signal.SIGTERM))
    run(self)
Trainer.run = run_and_stop
from medldm.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_both_stages_are_those_of_medldm_run_and_go_on_by_the_same_command(
    make_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    cohort = make_cohort(5)

    def words(**knobs: Any) -> list[str]:
        return [f"{name}={str(value).replace(' ', '')}" for name, value in knobs.items()]

    shared = ["--validation_fraction", "0.4", "--precision", "float32"]
    own = ["--autoencoder", *words(**TINY_1), "--diffusion", *words(**TINY_2)]
    train = ["train", "all", str(cohort), str(tmp_path / "out"), *shared, *own]
    stopped = run_python(["-c", STOPPED, *train], cwd=tmp_path)
    assert stopped.returncode == 75, stopped.stderr
    assert "the state after batch" in stopped.stderr.splitlines()[-1]
    done = run_python(["-m", "medldm.cli", *train], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for stage, knobs in (("autoencoder", TINY_1), ("diffusion", TINY_2)):
        straight = ["--config_file", str(BUNDLES_DIR / "mri_label_ldm" / "configs" / f"train_{stage}.yaml")]
        straight += ["--bundle_root", str(BUNDLES_DIR / "mri_label_ldm"), "--dataset_dir", str(cohort)]
        straight += ["--output_dir", str(tmp_path / "run"), *shared]
        straight += [part for name, value in knobs.items() for part in (f"--{name}", str(value))]
        run = run_python(["-m", "medldm.cli", "run", *straight], cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    for name in ("autoencoder.safetensors", "latent_diffusion.safetensors"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("out", "run"))
        assert hashlib.sha256(one).hexdigest() == hashlib.sha256(other).hexdigest(), name
