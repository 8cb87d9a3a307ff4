"""Keys that no config file has are refused with the nearest one that is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medldm.errors import ConfigError
from medldm.runtime.bundle_keys import check_command_line, check_keys, split_arguments

CONTENT = {
    "n_epochs": 3,
    "patch": "%other.yaml#patch",
    "train": {"dataset": {"_target_": "CacheDataset", "data": []}, "handlers": [{"a": 1}, 2]},
}


@pytest.fixture
def config(tmp_path) -> Path:
    file = tmp_path / "train.yaml"
    file.write_text("n_epochs: 3\ntrain: {dataset: {_target_: Dataset}, handlers: []}\n")
    (tmp_path / "overlay.json").write_text(
        json.dumps({"sharding": "ddp", "train#more": 1, "+train": {"x": 2}})
    )
    return file


@pytest.mark.parametrize(
    "key",
    [
        *("n_epochs", "train", "train#dataset", "train::dataset#data", "train#handlers#1"),
        *("train#dataset#cache_rate", "train#handlers#0#a", "patch#anything", "_meta_#version"),
    ],
)
def test_keys_that_are_there_and_arguments_of_components_pass(key) -> None:
    check_keys([key], CONTENT)


@pytest.mark.parametrize(
    ("key", "unknown", "nearest"),
    [
        ("epochz", "epochz", "n_epochs"),
        ("N_EPOCHS", "N_EPOCHS", None),
        ("train#datset", "train#datset", "train#dataset"),
        ("trian#dataset#data", "trian", "train"),
        ("train#datasets#cache_rate", "train#datasets", "train#dataset"),
        ("train#handlers#2", "train#handlers#2", "train#handlers#1"),
        ("train#handlers#0#b", "train#handlers#0#b", "train#handlers#0#a"),
    ],
)
def test_others_are_refused_with_the_nearest(key, unknown, nearest) -> None:
    with pytest.raises(ConfigError) as error:
        check_keys(["n_epochs", key], CONTENT)
    assert repr(unknown) in str(error.value)
    assert nearest is None or f"Did you mean {nearest!r}?" in str(error.value)


def test_what_has_no_keys_is_to_be_set_as_a_whole() -> None:
    with pytest.raises(ConfigError, match="'n_epochs' has no keys; set it as a whole"):
        check_keys(["n_epochs#a"], CONTENT)


def test_arguments_are_told_apart_as_fire_does() -> None:
    found = split_arguments(
        [
            "training",
            "--config_file",
            "a.yaml",
            "--low",
            "-3",
            "--n-epochs=2",
            "-x",
            "--flag",
            "--",
            "--trace",
        ]
    )
    assert found == {"config_file": "a.yaml", "low": "-3", "n_epochs": "2", "x": "True", "flag": "True"}


@pytest.mark.parametrize(
    "form",
    [
        "{0}/train.yaml,{0}/overlay.json",
        "['{0}/train.yaml','{0}/overlay.json']",
        "[{0}/train.yaml,{0}/overlay.json]",
    ],
)
def test_several_files_are_taken_together(config, form) -> None:
    files = ["--config_file", form.format(config.parent)]
    check_command_line([*files, "--sharding", "fsdp", "--train#more", "2", "--train#x=1"])
    with pytest.raises(ConfigError, match=r"'shardin'\. Did you mean 'sharding'"):
        check_command_line([*files, "--shardin", "fsdp"])
    with pytest.raises(ConfigError, match="Unknown key of the config 'sharding'"):
        check_command_line(["--config_file", str(config), "--sharding", "fsdp"])


def test_defaults_from_a_file_of_arguments_are_checked_too(config, tmp_path) -> None:
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps({"config_file": str(config), "n_epoch": 2}))
    with pytest.raises(ConfigError, match=r"'n_epoch'\. Did you mean 'n_epochs'"):
        check_command_line(["--args_file", str(arguments)])


def test_what_monai_takes_itself_passes_and_missing_files_are_left_to_it(config) -> None:
    check_command_line(
        ["run", "--config_file", str(config), "--init_id", "begin", "--logging_file", "x.conf"]
    )
    check_command_line(["--config_file", "none.yaml", "--anything", "1"])
    check_command_line(["--config_file", str(config), "--tracking", "mlflow", "--experiment_name", "one"])
    with pytest.raises(ConfigError, match="experiment_name"):
        check_command_line(["--config_file", str(config), "--experiment_name", "one"])


PROGRAM = """
import sys
from medldm.cli.main import main
code = main(["run", "--config_file", sys.argv[1], "--epochz", "2"])
sys.exit(code if not {"torch", "monai"} & set(sys.modules) else 99)
"""


def test_medldm_run_answers_before_it_imports_torch_or_monai(config) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: Unknown key of the config 'epochz'. Did you mean 'n_epochs'?")
