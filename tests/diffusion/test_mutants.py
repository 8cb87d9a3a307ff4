"""Each known kind of mistake in medldm.diffusion and in the codebook is noticed by the tests of its file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("mutants.py")


def load_mutants() -> ModuleType:
    """Import the neighbouring file by its path."""
    spec = importlib.util.spec_from_file_location("diffusion_mutants", SCRIPT)
    if spec is None or spec.loader is None:
        raise ImportError(f"{SCRIPT} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


mutants = load_mutants()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The exit status of the tests for each mutant."""
    folder = tmp_path_factory.mktemp("mutants")
    settings = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**os.environ, **settings}
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], env=environment, cwd=folder, check=True)
    return json.loads((folder / "results.json").read_text())


def test_unchanged_copy_passes(results: dict[str, int]) -> None:
    assert results[mutants.UNCHANGED] == 0


@pytest.mark.parametrize("name", [mutant.name for mutant in mutants.MUTANTS])
def test_mutant_is_caught(name: str, results: dict[str, int]) -> None:
    assert results[name] == 1
