"""The command line: each command on a small cohort, and errors in one line."""

from __future__ import annotations

import json

import nibabel as nib
import pytest

from medldm.cli.main import COMMANDS, main
from medldm.latent_diffusion.checkpoints import save_checkpoint
from tests.programs import run_python


def test_help_names_the_commands(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("prepare", "check", "generate", "demo"))


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check", "none"], ["no_command"]])
def test_the_package_run_as_a_program_is_the_command(words, tmp_path) -> None:
    package, command = (run_python(["-m", name, *words], cwd=tmp_path) for name in ("medldm", "medldm.cli"))
    assert (package.returncode, package.stdout) == (command.returncode, command.stdout)
    assert package.stderr == command.stderr
    assert "--help" not in words or all(name in package.stdout for name in COMMANDS)


def test_check_says_that_a_sound_cohort_is_sound(make_cohort, capsys) -> None:
    assert main(["check", str(make_cohort(3))]) == 0
    assert "case_" not in capsys.readouterr().out


def test_check_ends_with_1_and_names_the_file(make_cohort, capsys) -> None:
    folder = make_cohort(3)
    (folder / "images" / "case_1.nii.gz").unlink()
    assert main(["check", str(folder), "--json"]) == 1
    assert "case_1.nii.gz" in json.dumps(json.loads(capsys.readouterr().out))


def test_prepare_makes_a_cohort_that_check_accepts(make_cohort, tmp_path, capsys) -> None:
    source, output = make_cohort(3), tmp_path / "prepared"
    key = tmp_path / "key"
    assert main(["prepare", str(source), str(output), "--key-file", str(key), "--workers", "1"]) == 0
    assert "3 cases of 3 subjects, 3 with a label map" in capsys.readouterr().out
    assert main(["check", str(output)]) == 0


def test_generate_writes_volumes(make_cohort, make_model, tmp_path, capsys) -> None:
    from medldm import LatentDiffusionConfig
    from medldm.latent_diffusion.model_files import describe_latent_diffusion

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(("label_map",)), LatentDiffusionConfig())())
    labels = str(make_cohort(2) / "labels")
    arguments = ["generate", str(path), str(tmp_path / "out"), "--label-dir", labels, "--num-steps", "2"]
    assert main(arguments) == 0
    assert "2 volumes" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert nib.load(tmp_path / "out" / "images" / "synthetic_0000.nii.gz").shape == (17, 20, 15)
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: 2 volumes")


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys) -> None:
    assert main(["generate", str(tmp_path / "none.safetensors"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no checkpoint at")
    assert error.count("\n") == 1


IMPORT = ["import-weights", "none.pt", "OUT", "--as", "maisi-autoencoder"]
SPACE = ["--spacing", "1", "1", "1", "--size", "8", "8", "8", "--intensity"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepare", "COHORT", "OUT", "--table", "none.csv", "--key-file", "OUT.key"],
            "the subject table none.csv",
        ),
        (["prepare", "COHORT", "OUT", "--labels", "none"], "no label table of that name"),
        (["check", "none"], "no cohort at none"),
        (["plan", "--memory-gb", "8", "--bundle", "none"], "no none/configs/train_autoencoder.yaml"),
        (
            ["plan", "--memory-gb", "8", "--diffusion", "down_channels=[8"],
            "'down_channels=[8' has a value that is no YAML",
        ),
        (["run", "--config_file", "none.yaml"], "none.yaml: there is no such file"),
        (
            [
                "evaluate",
                *("--real-train", "none", "--real-test", "none"),
                *("--synthetic", "none", "--output-dir", "OUT"),
            ],
            "no cohort",
        ),
        (["demo", "--output-dir", "COHORT"], "COHORT is not empty"),
        (["import-weights", "none.pt", "OUT", "--as", "monai-unet"], "no weights at none.pt"),
        (["import-weights", "none.pt", "COHORT", "--as", "monai-unet"], "COHORT is there: choose another"),
        ([*IMPORT, "--spacing", "1", "1", "1", "--size", "8", "8", "8"], "--intensity is missing"),
        ([*IMPORT, *SPACE, "mr_percentile"], "--intensity is 'mr_percentile': give lower and upper too"),
        ([*IMPORT, *SPACE, "{kind"], "--intensity is '{kind', which is no YAML"),
        ([*IMPORT, *SPACE, "ct"], "intensity: IntensityMapping: kind is 'ct': choose from"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, message, make_cohort, tmp_path, capsys) -> None:
    places = {"COHORT": str(make_cohort(2)), "OUT": str(tmp_path / "out")}
    for short, place in places.items():
        arguments = [argument.replace(short, place) for argument in arguments]
        message = message.replace(short, place)
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"error: {message}")
    assert "Traceback (most recent call last):" not in error
