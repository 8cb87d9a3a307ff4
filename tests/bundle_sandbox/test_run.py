"""`medldm run`: what the shipped bundles need passes, and runs as MONAI would run it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from pydoc import locate

import pytest
from monai.bundle import ComponentLocator

import medldm
from medldm.bundle_sandbox import CheckedWorkflow, ConfigRefused, check_config
from medldm.bundle_sandbox.rules import TARGETS
from medldm.cli.main import main

BUNDLES = Path(medldm.__file__).parent / "bundles"
SHIPPED = sorted(BUNDLES.glob("*/configs/*.yaml"))


@pytest.fixture(autouse=True)
def _keep_logging():
    """Take back what a logging.conf did to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "run.yaml").write_text(
        "output_dir: outputs\ndataset_dir: data\n"
        "channels: [4, 8]\n"
        "n: $len(@channels) + 1\n"
        "net: {_target_: medldm.networks.VAE, config: {_target_: medldm.VAEConfig,\n"
        "  down_channels: '@channels', n_groups: 4, n_res_blocks: 1, mid_attention: false}}\n"
        "log: {_target_: medldm.training.TrainingLog, directory: $@output_dir + '/logs'}\n"
        "run: ['$@net.to(\"cpu\")', '$str(@n)', '@log']\n"
    )
    return folder


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_shipped_bundles_pass(file: Path) -> None:
    files = [str(file)]
    if file.stem == "multi_gpu":  # lies over a training
        files.insert(0, str(file.with_name("train_diffusion.yaml")))
    CheckedWorkflow(files, logging_file=False, command_line={"bundle_root": "."})


@pytest.mark.parametrize(
    "file", sorted(BUNDLES.glob("*/configs/logging.conf")), ids=lambda path: path.parts[-3]
)
def test_the_shipped_logging_files_pass(file: Path, bundle: Path) -> None:
    CheckedWorkflow(
        str(bundle / "configs" / "run.yaml"), logging_file=str(file), command_line={"output_dir": "outputs"}
    )
    assert logging.getLogger().level == logging.INFO


def test_every_listed_component_is_there() -> None:
    import monai.engines
    import monai.handlers  # noqa: F401 (the locator looks at what is imported)

    locator = ComponentLocator()
    for name in TARGETS:
        module = locator.get_component_module_name(name)
        found = locate(
            name if module is None else f"{module if isinstance(module, str) else module[0]}.{name}"
        )
        assert callable(found), name


def test_a_bundle_is_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    path = list(sys.path)
    assert main(["run", "--config_file", "configs/run.yaml"]) == 0
    # MONAI would add the bundle's folder, where a file may stand in for a module of another package.
    assert sys.path == path


def test_results_are_monais_own(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    workflow = CheckedWorkflow("configs/run.yaml", **{"channels": [4, 8, 8]})
    workflow.initialize()
    network, text, log = workflow.run()
    assert network.config.down_channels == (4, 8, 8)
    assert text == "4"
    assert log.directory == Path("outputs/logs")


def test_overlays_overrides_and_defaults_in_a_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    Path("configs/more.yaml").write_text("net#config#n_groups: 2\n")
    Path("args.yaml").write_text("config_file: [configs/run.yaml, configs/more.yaml]\nchannels: [6, 6]\n")
    assert main(["run", "--args_file", "args.yaml", "--channels", "[2, 4]"]) == 0
    assert main(["run", "--args_file", "args.yaml", "--channels", "[3, 4]"]) == 1


def test_the_command_line_may_name_another_output(bundle: Path, tmp_path: Path, capsys) -> None:
    config = str(bundle / "configs" / "run.yaml")
    elsewhere = str(tmp_path / "elsewhere")
    assert main(["run", "--config_file", config, "--output_dir", elsewhere]) == 0
    assert main(["run", "--config_file", config, "--dataset_dir", elsewhere]) == 1
    assert "log::directory: writes into" in capsys.readouterr().err


def test_the_users_word_turns_the_lint_off(bundle: Path, monkeypatch, caplog, capsys) -> None:
    monkeypatch.chdir(bundle)
    Path("configs/run.yaml").write_text('run: [\'$__import__("pathlib").Path("made").touch()\']\n')
    arguments = ["run", "--config_file", "configs/run.yaml"]
    assert main(arguments) == 1
    assert not Path("made").exists()
    assert "error: run::0" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="config"):
        assert main([*arguments, "--trusted-bundle"]) == 0
    assert Path("made").exists()
    assert "the config is not checked" in caplog.text


def test_a_misspelt_component_is_named_with_its_nearest() -> None:
    with pytest.raises(ConfigRefused, match=r"net::_target_: 'medldm\.VAEConfg' .* 'medldm\.VAEConfig'"):
        check_config({"net": {"_target_": "medldm.VAEConfg"}}, roots=[])


def test_other_commands_refuse_unknown_arguments() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", "cohort", "--nonsense", "1"])
    assert stop.value.code == 2
