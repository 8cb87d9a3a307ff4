"""A knob has one name and one default, whether a bundle, a command or Python sets it."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from medldm import ConditioningConfig, LatentDiffusionConfig, LatentUNetConfig, VAEConfig
from medldm.cli import demo, evaluate, generate, prepare
from medldm.sampling.config import SamplingConfig

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
FILES = sorted(BUNDLES.glob("*/configs/*.yaml"))
# Of edit.yaml: inversion needs a solver without noise, and as many steps as it was measured with.
OWN = {("edit.yaml", "num_steps"), ("edit.yaml", "solver")}


def knobs_of(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text())
    return {name: value for name, value in content.items() if not isinstance(value, dict)}


@pytest.mark.parametrize(
    "file",
    sorted(BUNDLES.glob("*/configs/*.yaml")),
    ids=lambda file: file.parent.parent.name + "-" + file.name,
)
def test_bundles_sample_with_the_defaults_of_the_sampling_config(file: Path) -> None:
    defaults = SamplingConfig().to_dict()
    for name, value in knobs_of(file).items():
        if name in defaults and (file.name, name) not in OWN:
            assert value == defaults[name], name


def test_the_command_generates_with_the_defaults_of_the_sampling_config() -> None:
    options = options_of(generate, ["model.safetensors", "out"])
    for name, value in SamplingConfig().to_dict().items():
        assert getattr(options, name, value) == value, name


def test_knobs_are_named_as_the_fields_that_they_set() -> None:
    configs = (ConditioningConfig, LatentDiffusionConfig, LatentUNetConfig, VAEConfig)
    known = {field.name for config in configs for field in fields(config)} - {"seed"}
    for file in BUNDLES.glob("*/configs/train_*.yaml"):
        for line in file.read_text().splitlines():
            name, _, value = line.strip().partition(': "@')
            if name in known and value.strip('"') in knobs_of(file):
                # The third phase has a learning rate and the like of its own.
                assert value.strip('"') in (name, f"decoder_{name}"), f"{file}: {line}"


def test_commands_name_their_folder_alike() -> None:
    assert options_of(demo, []).output_dir == "demo_output"
    for command, given in ((generate, ["a", "b"]), (prepare, ["a", "b"])):
        assert options_of(command, given).output_dir == "b"
    real = ["--real-train", "a", "--real-test", "a", "--synthetic", "a"]
    assert options_of(evaluate, [*real, "--output-dir", "b"]).output_dir == "b"


def options_of(command: Any, given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(given)
