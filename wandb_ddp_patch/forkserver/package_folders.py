"""Whose code a file holds: Python's, a package's, or the user's own."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Any, Dict, Iterable, Set

_PATHS = sysconfig.get_paths()
_OF_PYTHON = _PATHS["stdlib"], _PATHS["platstdlib"]
_OF_OTHERS = (
    *(_PATHS["purelib"], _PATHS["platlib"]),
    *(os.path.join(_PATHS["stdlib"], f"{name}-packages") for name in ("site", "dist")),
)


class PackageFolders:
    """Where this interpreter finds modules by itself, before it has the script's sys.path.

    In what folder a package lies says nothing: besides site-packages, there are PYTHONPATH
    (which modules of a cluster set), the user's site-packages, .pth files, editable installs.
    So the user's own is what only the script's start finds: in its folder, or in one that it
    has added.
    """

    def __init__(self, script: Dict[str, Any]) -> None:
        main = script.get("init_main_from_path")
        own = script["dir"], script.get("orig_dir"), main and os.path.dirname(main)
        self._own = _folders(filter(None, own))
        self._found = _folders(sys.path) - self._own

    def is_a_package(self, file: str) -> bool:
        """Return True if a file is not the user's own code."""
        folders = self._own | _folders(sys.path)
        within = [folder for folder in folders if file.startswith(folder)]
        return not within or max(within, key=len) in self._found


def is_of_python(file: str) -> bool:
    """Return True if a file is of the standard library."""
    return file.startswith(("<", *_OF_PYTHON)) and not file.startswith(_OF_OTHERS)


def _folders(names: Iterable[Any]) -> Set[str]:
    return {os.path.join(os.path.abspath(name), "") for name in names if isinstance(name, str)}
