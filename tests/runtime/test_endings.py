"""How a command ends: one line for what a user can mend, a traceback with the cause last for the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch.utils.data import DataLoader

from medldm.cli import check
from medldm.cli.main import main
from medldm.errors import ConfigError, MedldmError
from medldm.runtime.endings import end_as_medldm_does, innermost_cause, open_wrappers, report_error
from medldm.training.resume.preemption import TrainingStopped
from medldm.transforms.errors import CorruptVolumeError

BEFORE = "n_heads is 3: 1, 2 or 4 are allowed"


def refuse(*_: object) -> None:
    raise ConfigError(BEFORE)


def blunder(*_: object) -> None:
    try:
        {}["absent"]
    except KeyError as error:
        raise TypeError("a blunder of the program") from error


class Unreadable:
    """A dataset of one volume that cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise CorruptVolumeError("the file ends early", file="/hidden/case_1.nii.gz")


def caught(function, *args: object) -> Exception:
    with pytest.raises(Exception) as found:
        function(*args)
    return found.value


def instantiate(function_name: str) -> Exception:
    """Return what MONAI raises where a component of a bundle within another one fails."""
    failing = {"_target_": f"{__name__}.{function_name}"}
    parser = ConfigParser({"a": {"_target_": "builtins.list", "iterable": [failing]}, "b": "$[@a]"})
    return caught(parser.get_parsed_content, "b")


def test_what_a_user_can_mend_is_one_line(capsys) -> None:
    assert report_error(caught(refuse)) == 1
    assert capsys.readouterr().err == f"error: {BEFORE}\n"


def test_a_stop_has_its_own_exit_code_and_is_no_error(capsys) -> None:
    assert report_error(TrainingStopped("SIGTERM: saved", exit_code=75)) == 75
    assert capsys.readouterr().err == "SIGTERM: saved\n"


@pytest.mark.parametrize("wrapped", [lambda: caught(Compose([refuse]), 0), lambda: instantiate("refuse")])
def test_wrappers_of_monai_are_taken_off(wrapped, capsys) -> None:
    error = wrapped()
    assert type(error) is RuntimeError
    assert type(open_wrappers(error)) is ConfigError
    assert report_error(error) == 1
    assert capsys.readouterr().err == f"error: {BEFORE}\n"


def test_anything_else_keeps_its_traceback_and_the_innermost_cause_is_last(capsys) -> None:
    assert report_error(instantiate("blunder")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert "TypeError: a blunder of the program" in lines
    assert any("in blunder" in line for line in lines)
    assert not any("Failed to instantiate" in line for line in lines)
    assert lines[-1] == "cause: KeyError: 'absent'"


def test_an_error_that_hides_a_users_is_still_the_programs(capsys) -> None:
    try:
        try:
            refuse()
        except ConfigError as error:
            raise RuntimeError("not MONAI's") from error
    except RuntimeError as error:
        assert isinstance(innermost_cause(error), ConfigError)
        report_error(error)
    lines = capsys.readouterr().err.splitlines()
    assert "RuntimeError: not MONAI's" in lines
    assert lines[-1] == f"cause: medldm.errors.ConfigError: {BEFORE}"


def test_the_traceback_of_a_worker_is_left_out(capsys) -> None:
    error = caught(list, DataLoader(Unreadable(), num_workers=1))
    assert "Original Traceback" in str(error)
    report_error(error)
    assert capsys.readouterr().err == "error: case_1.nii.gz: the file ends early\n"


@pytest.mark.parametrize(
    ("function", "last"), [(refuse, f"error: {BEFORE}"), (blunder, "cause: KeyError: 'absent'")]
)
def test_the_command_line_ends_so(function, last, monkeypatch, capsys) -> None:
    monkeypatch.setattr(check, "run_command", function)
    assert main(["check", "cohort"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == last


def test_every_error_that_can_be_mended_is_still_what_it_was() -> None:
    kinds = [MedldmError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {CorruptVolumeError, ConfigError} <= set(kinds)
    for kind in kinds:
        assert isinstance(kind.exit_code, int)


def test_no_other_process_than_monais_command_line_is_touched() -> None:
    before = sys.excepthook
    end_as_medldm_does()
    assert sys.excepthook is before


PROGRAM = """
import sys
from types import SimpleNamespace
sys.modules["__main__"].__spec__ = SimpleNamespace(name="monai.bundle.__main__")
from medldm.errors import MedldmError
from medldm.runtime.endings import end_as_medldm_does
end_as_medldm_does()
class Stop(MedldmError):
    exit_code = 75
raise {error}
"""


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        ("Stop('stopped')", 75, "stopped"),
        ("MedldmError('refused')", 1, "error: refused"),
        ("KeyError('absent')", 1, "KeyError: 'absent'"),
    ],
)
def test_the_interpreter_ends_with_the_code_of_the_hook(error, code, last) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == last
    assert ("Traceback" in done.stderr) == ("KeyError" in error)
