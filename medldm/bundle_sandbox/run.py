"""`medldm run`: MONAI's `bundle run` with the config checked first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
from monai.bundle import ConfigWorkflow, update_kwargs
from monai.bundle import run as run_unchecked
from monai.bundle.workflows import BundleWorkflow
from monai.utils import ensure_tuple

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.logging_files import apply_logging_file
from medldm.bundle_sandbox.parser import CheckedParser
from medldm.bundle_sandbox.reading import read_config_file
from medldm.bundle_sandbox.rules import OUTPUT_KEYS
from medldm.errors import ConfigError
from medldm.runtime.bundle_keys import check_keys
from medldm.runtime.output_lock import release_holds

logger = logging.getLogger(__name__)

_NOT_CHECKED = ("tracking", "workflow_name", "properties_path")
_FILES = ("config_file", "meta_file", "logging_file")


class CheckedWorkflow(ConfigWorkflow):
    """A bundle's workflow that runs only what the lint lets pass.

    Beyond the checks, the bundle's folder does not join Python's search path, where a file of it could stand
    in for a module of another package.

    Args:
        config_file: one file or several, the later override the earlier.
        meta_file: None for metadata.json beside the first config, if it is there.
        logging_file: None for logging.conf beside the first config, if it is there; False for none.
        init_id: key of what is run first.
        run_id: key of what is run.
        final_id: key of what is run last.
        workflow_type: "train" or "infer", which of MONAI's properties it has.
        command_line: the keys and values that the user gave; its folders widen where the run may write.
        bundle_folder: the other one where it may write; None for that of the first config.
        override: keys and their values, in the place of those of the files.

    Raises:
        ConfigRefused: naming the file or the key that is refused; nothing was run.
        ConfigError: for an override of a key that the config does not have.
    """

    def __init__(
        self,
        config_file: str | Sequence[str],
        *,
        meta_file: str | Sequence[str] | None = None,
        logging_file: str | bool | None = None,
        init_id: str = "initialize",
        run_id: str = "run",
        final_id: str = "finalize",
        workflow_type: str | None = "train",
        command_line: dict[str, Any] | None = None,
        bundle_folder: Path | None = None,
        **override: Any,
    ) -> None:
        BundleWorkflow.__init__(self, workflow_type=workflow_type)
        files = [Path(str(file)) for file in ensure_tuple(config_file)]
        self.config_root_path = files[0].parent
        self.init_id, self.run_id, self.final_id = init_id, run_id, final_id
        self._is_initialized = False
        self.parser = CheckedParser(
            folders=[file.parent for file in files],
            roots=_output_roots(bundle_folder or _bundle_of(files[0]), command_line or {}),
        )
        self.parser.read_config([str(file) for file in files])
        self.meta_file = _beside(self.config_root_path, "metadata.json") if meta_file is None else meta_file
        if self.meta_file is not None:
            self.parser.read_meta(self.meta_file)
        check_keys(override, self.parser.get())
        self.parser.update(pairs=override)
        self.parser.resolve_macro_and_relative_ids()
        if logging_file is None:
            logging_file = _beside(self.config_root_path, "logging.conf")
        if isinstance(logging_file, str):
            apply_logging_file(Path(logging_file))

    def run(self) -> Any:
        """Run the workflow.

        Raises:
            ValueError: if the config has no key of the name `run_id`.
        """
        if self.run_id not in self.parser:
            raise ConfigError(
                f"the config has no key {self.run_id!r} to run: name one of its keys with --run_id"
            )
        return self._run_expr(id=self.run_id)


def run_checked(run_id: str | None = None, **arguments: Any) -> None:
    """Check a bundle's config and run it; the arguments are those of `monai.bundle.run`.

    Args:
        run_id: key of what is run; None for "run".
        arguments: config_file, meta_file, logging_file, init_id, final_id, args_file, and keys of the config
            with their values. `args_file` holds defaults of all of them.

    A run may write below the bundle of the first file that the command line itself names, which is
    `args_file` where that one names the configs; these then have to lie below it too.

    Raises:
        ConfigRefused: naming what is refused; nothing was run.
    """
    defaults = arguments.pop("args_file", None)
    given = update_kwargs(
        read_config_file(defaults) if defaults is not None else {}, run_id=run_id, **arguments
    )
    for name in _NOT_CHECKED:
        if given.get(name) is not None:
            raise refuse(f"--{name}", f"{given[name]!r} brings in what is not checked")
    if given.get("config_file") is None:
        raise ConfigError("no config_file: name the bundle's config, --config_file configs/train.yaml")
    own = arguments.get("config_file")
    named = defaults if own is None else next(iter(ensure_tuple(own)), defaults)
    folder = _bundle_of(Path(str(named)))
    if defaults is not None:
        _require_below(
            folder, defaults, {key: given.get(key) for key in _FILES if arguments.get(key) is None}
        )
    workflow = CheckedWorkflow(**given, command_line=arguments, bundle_folder=folder)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    finally:
        release_holds()


def run_command(arguments: Sequence[str], *, is_trusted: bool) -> None:
    """Run a bundle from the arguments of a command line, read as MONAI reads them.

    Args:
        arguments: such as ["--config_file", "configs/train.yaml", "--n_epochs", "3"].
        is_trusted: True leaves out every check.
    """
    if is_trusted:
        logger.warning("--trusted-bundle: the config is not checked; it can run any code that it names")
    fire.Fire(run_unchecked if is_trusted else run_checked, command=list(arguments), name="medldm run")


def _bundle_of(file: Path) -> Path:
    """Return the folder of a bundle whose config, or file of arguments, this is."""
    folder = file.absolute().parent
    return folder.parent if folder.name == "configs" else folder


def _require_below(folder: Path, args_file: str, named: dict[str, Any]) -> None:
    """Refuse files that a file of arguments names elsewhere: they are not the user's own words."""
    for key, value in named.items():
        for file in ensure_tuple(value):
            if isinstance(file, str) and not Path(file).resolve().is_relative_to(folder.resolve()):
                raise refuse(
                    f"{args_file} {key}",
                    f"{file!r} lies outside of {folder.resolve()}; name a file elsewhere on the command "
                    f"line, with --{key}",
                )


def _output_roots(bundle: Path, command_line: dict[str, Any]) -> list[Path]:
    """Return where the run may write: the bundle's own folder, and what the command line names."""
    named = [Path(str(command_line[key])) for key in OUTPUT_KEYS if command_line.get(key) is not None]
    return list(dict.fromkeys(path.resolve() for path in (bundle, *named)))


def _beside(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).is_file() else None
