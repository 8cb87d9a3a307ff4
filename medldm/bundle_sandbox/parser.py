"""MONAI's config parser with the check at the one place that no value can pass by unseen."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.config import PathLike

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.reading import count_nodes, read_config_file
from medldm.bundle_sandbox.rules import MAX_NODES
from medldm.bundle_sandbox.tree import check_config

_MACRO = "%"


class CheckedParser(ConfigParser):
    """Parse a config that nobody vouches for.

    MONAI puts macros and relative ids in place and then makes items of the result. The check stands between
    the two, so that what is checked is what is run, whether it came from a file, an overlay or the command
    line.

    Args:
        folders: the folders of the config files; macros read no file elsewhere.
        roots: resolved folders below which the run may write.
    """

    def __init__(self, *, folders: Sequence[Path], roots: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]
        self._roots = list(roots)
        self._values_left = MAX_NODES
        super().__init__()

    @classmethod
    def load_config_file(cls, filepath: PathLike, **kwargs: Any) -> dict:
        """Read a file within the limits of `read_config_file`."""
        return read_config_file(str(filepath))

    def resolve_macro_and_relative_ids(self) -> None:
        """Put macros and relative ids in place, and check the whole config.

        Raises:
            ConfigRefused: naming the key of the first value that a config may not hold.
        """
        count_nodes(self.get(), key="the config")
        super().resolve_macro_and_relative_ids()
        check_config(self.get(), roots=self._roots)

    def _do_resolve(self, config: Any, id: str = "") -> Any:
        if not isinstance(config, str):
            return super()._do_resolve(config, id)
        text = self.resolve_relative_ids(id, config)
        return self._macro(text, key=id) if text.startswith(_MACRO) else text

    def _macro(self, text: str, *, key: str) -> Any:
        name, wanted = self.split_path_id(text[len(_MACRO) :])
        source = self._read_macro_file(name, key=key) if name else self.get()
        try:
            content = ConfigParser(config=source)[wanted]
        except (KeyError, ValueError, IndexError) as error:
            raise refuse(key, f"the macro {text!r} names nothing that is there") from error
        self._values_left -= count_nodes(content, key=key)
        if self._values_left < 0:
            raise refuse(key, f"with the macro {text!r}, macros give more than {MAX_NODES} values")
        return deepcopy(content)

    def _read_macro_file(self, name: str, *, key: str) -> dict[str, Any]:
        if Path(name).resolve().parent not in self._folders:
            raise refuse(key, f"the macro %{name} reads a file outside of the folder of the config files")
        return read_config_file(name)
