"""How trainings of a bundle end, through MONAI's command line and through `medldm run`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.bundle import create_workflow

from medldm.runtime.devices import DeviceError
from medldm.runtime.endings import open_wrappers
from tests.bundles.test_mri_label_ldm import BUNDLE, TINY_1, config, knobs
from tests.programs import run_python

PLANTED = '''
import os, signal
from pathlib import Path
import torch
from ignite.engine import Events
from monai.engines import Trainer

def plant(handler):
    """Let each trainer call a handler after its first batch."""
    run = Trainer.run
    def run_with_handler(self):
        self.add_event_handler(Events.ITERATION_COMPLETED(once=1), handler)
        run(self)
    Trainer.run = run_with_handler

def shape_bug():
    plant(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))

def stop():
    plant(lambda: os.kill(os.getpid(), signal.SIGTERM))

def spoil(folder):
    plant(lambda: [file.write_bytes(b"spoiled") for file in Path(folder).iterdir()])
'''

OVERLAY = """
initialize:
- _target_: medldm.workflows.initialise_run
  required_packages: "@_meta_#required_packages_version"
  seed: "@seed"
- {planted}
"""

PROGRAMS = ["monai.bundle", "medldm.cli"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


@pytest.fixture
def train(make_cohort, tmp_path, monkeypatch):
    """Return a function that trains the first stage in a process of its own, with something planted."""
    cohort = make_cohort(5)
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def run(
        program: str, planted: str = "", *, is_fresh: bool = False, **own: object
    ) -> subprocess.CompletedProcess[str]:
        files, options = [config("train_autoencoder")], []
        if planted:
            overlay = tmp_path / "overlay.yaml"
            overlay.write_text(OVERLAY.format(planted=planted.replace("COHORT", str(cohort))))
            files.append(str(overlay))
            options = ["--trusted-bundle"] if program == "medldm.cli" else []
        settings = {
            "bundle_root": BUNDLE,
            "dataset_dir": cohort,
            "output_dir": tmp_path / "out",
            "validation_fraction": 0.4,
            **TINY_1,
            **own,
        }
        words = ["-m", program, "run", *options, "--config_file", str(files), *knobs(**settings)]
        if is_fresh:
            command = [sys.executable, *words]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return run_python(words, cwd=tmp_path)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("message", "planted", "settings"),
    [
        ("error: device is 'cuda:99', but torch sees", "", {"device": "cuda:99"}),
        (
            "error: patch_size is (32, 32, 32): three numbers no larger than the volume's (16, 20, 16)",
            "",
            {"patch_size": [32, 32, 32]},
        ),
        (
            "error: none of the 3 training cases can be used",
            "{_target_: planted.spoil, folder: COHORT/images}",
            {"cache_rate": 0.0},
        ),
    ],
    ids=["device", "patch", "spoiled"],
)
def test_what_a_user_can_mend_ends_in_one_line(train, program, message, planted, settings) -> None:
    done = train(program, planted, **settings)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bug_in_a_handler_ends_in_its_traceback(train, program) -> None:
    done = train(program, "{_target_: planted.shape_bug}")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "planted.py" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_training_that_is_told_to_stop_ends_with_75(train, program) -> None:
    """In a fresh interpreter; those above run in forks of one that has imported torch."""
    done = train(program, "{_target_: planted.stop}", is_fresh=True)
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("SIGTERM: the state after batch 2 is saved")


def test_workflows_made_in_python_raise(make_cohort, tmp_path) -> None:
    workflow = create_workflow(
        config_file=config("train_autoencoder"),
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(make_cohort(3)),
        output_dir=str(tmp_path),
        device="cuda:99",
        logging_file=False,
    )
    with pytest.raises(RuntimeError) as found:
        workflow.check_properties()
    assert type(open_wrappers(found.value)) is DeviceError
    with pytest.raises(RuntimeError) as found:
        workflow.run()
    assert type(open_wrappers(found.value)) is DeviceError
