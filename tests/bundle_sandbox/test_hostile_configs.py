"""Hostile configs run nothing and write nothing outside; and the detector that says so does see attacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest

from medldm.bundle_sandbox import run_checked
from tests.bundle_sandbox.corpus import CONFIGS, TOUCH, Attack
from tests.bundle_sandbox.watcher import watch_all

Seen = dict[str, tuple[str, list[str]]]


def fill_in(text: str, bundle: Path) -> str:
    for word, name in (("MARK", "MARK"), ("OUTSIDE", "outside"), ("OTHER", "other")):
        text = text.replace(word, str(bundle.parent / name))
    return text


def build(attack: Attack, bundle: Path) -> None:
    outside = bundle.parent / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    for name, text in attack.files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(fill_in(text, bundle))
    for name, aim in attack.links.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).symlink_to(fill_in(aim, bundle))


def attack_job(attack: Attack) -> Callable[[Path], object]:
    def run(bundle: Path) -> None:
        arguments: dict[str, Any] = {
            key: fill_in(value, bundle) if isinstance(value, str) else value
            for key, value in attack.arguments.items()
        }
        run_checked(**{"config_file": "configs/run.yaml", **arguments})

    return run


def trusted(text: str) -> Callable[[Path], object]:
    def run(bundle: Path) -> None:
        (bundle / "run.yaml").write_text(fill_in(text, bundle))
        warnings.simplefilter("ignore")
        monai.bundle.run(config_file="run.yaml")

    return run


TRUSTED = {
    "os.system": trusted(f'run: ["${TOUCH}"]\n'),
    "subprocess.Popen": trusted("run: [{_target_: subprocess.run, args: [touch, MARK]}]\n"),
    "evaluated text": trusted('run: ["$1 + 1"]\n'),
    "import antigravity": trusted("run: [\"$__import__('sys').audit('import', 'antigravity')\"]\n"),
    "socket.bind": trusted("run: [{_target_: socket.create_server, address: '$(\"127.0.0.1\", 0)'}]\n"),
    "write ": trusted("run: [{_target_: builtins.open, file: MARK, mode: w}]\n"),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("hostile")
    for name, attack in CONFIGS.items():
        (folder / name / "bundle").mkdir(parents=True)
        build(attack, folder / name / "bundle")
    jobs = [(name, attack_job(attack)) for name, attack in CONFIGS.items()]
    found = watch_all(jobs, folder)
    for name in CONFIGS:
        assert not (folder / name / "MARK").exists(), name
        assert [path.name for path in (folder / name / "outside").iterdir()] == ["kept.txt"], name
        assert (folder / name / "outside" / "kept.txt").read_text() == "kept", name
    return found


def test_the_corpus_is_large() -> None:
    assert len(CONFIGS) >= 100


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_runs_and_the_error_names_the_key(name: str, seen: Seen) -> None:
    error, events = seen[name]
    assert events == []
    assert error.startswith("ConfigRefused: ")
    assert fill_in(CONFIGS[name].names, Path("/")) in error
    assert "nothing was run" in error
    assert "\n" not in error


def test_the_detector_sees_every_kind_of_attack(tmp_path: Path) -> None:
    found = watch_all(TRUSTED.items(), tmp_path)
    for event in TRUSTED:
        assert any(each.startswith(event) for each in found[event][1]), (event, found[event])
    assert (tmp_path / "os.system" / "MARK").exists()
    assert (tmp_path / "subprocess.Popen" / "MARK").exists()
