"""Imports that cost nothing: the package and the help of commands load no library; names come when used."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import medldm
from medldm.cli.main import COMMANDS

HEAVY = ("torch", "monai", "ignite", "numpy", "scipy", "nibabel", "SimpleITK", "matplotlib", "yaml", "fire")


def loaded_after(statement: str) -> set[str]:
    """Return which heavy libraries a fresh interpreter has loaded after a statement."""
    program = (
        f"import contextlib, sys\nwith contextlib.suppress(SystemExit):\n    {statement}\n"
        f"sys.stderr.write(' '.join(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_importing_the_package_loads_no_library() -> None:
    assert loaded_after("import medldm") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_no_library(arguments: list[str]) -> None:
    assert loaded_after(f"from medldm.cli.main import main; main({arguments})") == set()


def test_the_module_of_the_command_line_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medldm.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == medldm.__version__


def test_every_public_name_is_there_and_listed() -> None:
    assert set(medldm.__all__) <= set(dir(medldm))
    for name in medldm.__all__:
        assert getattr(medldm, name) is not None


def test_a_public_class_is_the_rooms_own_and_can_be_pickled() -> None:
    from medldm.networks.vae import VAEConfig

    assert medldm.VAEConfig is VAEConfig
    assert pickle.loads(pickle.dumps(medldm.VAEConfig)) is VAEConfig


def test_rooms_are_attributes_of_the_package() -> None:
    program = "import medldm; medldm.networks.VAE; medldm.errors.MedldmError; medldm.transforms.LoadVolume"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'medldm' has no attribute 'VAEConfg'"):
        _ = medldm.VAEConfg
