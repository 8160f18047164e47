"""What importing the script depends on, and what it leaves behind.

A spawned worker imports the script when it is started. A forkserver's worker has what was
imported before: that is only the same if what the import depends on has not changed since.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from multiprocessing import spawn
from types import FrameType
from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Optional, Set

from . import process_state

_PATHS = sysconfig.get_paths()
_STDLIB_FOLDERS = _PATHS["stdlib"], _PATHS["platstdlib"]
_SITE_FOLDERS = (
    *(_PATHS["purelib"], _PATHS["platlib"]),
    *(os.path.join(_PATHS["stdlib"], f"{name}-packages") for name in ("site", "dist")),
)
# The methods of os.environ that read all of it.
_BULK_READS = "__iter__", "copy", "items", "keys", "values"
# Packages that read all of the environment only for variables of their own, for a proxy, or to
# pass it to another program. wandb imports git and, up to 0.21, sentry_sdk. If these counted, any
# changed variable would make all workers slow ones.
_HARMLESS_READERS = "fsspec", "git", "sentry_sdk", "tqdm", __name__.split(".")[0]


@dataclass
class EnvironUse:
    """What importing the script has done with the environment's variables.

    Attributes:
        read: The names of those that it has read.
        reads_all: Whether it may have read any other one.
        written: The values that it has left, by name; None where it has deleted the variable.
    """

    read: Set[str] = field(default_factory=set)
    reads_all: bool = False
    written: Dict[str, Optional[str]] = field(default_factory=dict)


@dataclass
class ImportReport:
    """What importing the script has done in the forkserver; all its forks have a copy.

    Attributes:
        problem: Why the script is not imported; None once it is.
        environ: What the import has done with the environment.
        atexit_files: The files of code that has registered a function with atexit.
        open_files: The files and connections that it has left open.
        resource: The name of a resource it has created that forks share or lack, or None.
        threads: The names of the Python threads that it has started.
        timers: The names of the timers that it has set.
        changes: What else it has changed that each spawned worker gets from its parent.
        sys_path: sys.path as the script has left it; None where it has not changed that.
    """

    # As it is where this module is imported but preload.py has nothing to import.
    problem: Optional[str] = "the forkserver has died, and the next one has imported nothing"
    environ: EnvironUse = field(default_factory=EnvironUse)
    atexit_files: Set[str] = field(default_factory=set)
    open_files: List[str] = field(default_factory=list)
    resource: Optional[str] = None
    threads: List[str] = field(default_factory=list)
    timers: List[str] = field(default_factory=list)
    changes: List[str] = field(default_factory=list)
    sys_path: Optional[List[str]] = None


class ProcessSnapshot:
    """What an import of the script, and the start of a process, depend on: as it is now."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        data = spawn.get_preparation_data("")
        self._settings = {
            "its main module": [data.get(f"init_main_from_{how}") for how in ("name", "path")],
            "sys.argv": [str(argument) for argument in sys.argv],
            "sys.path": [str(folder) for folder in data["sys_path"]],
            "its working directory": data["dir"],
        }
        self._inherited = process_state.inherited_state()

    def inheritance_problem(self, server_pid: Optional[int]) -> Optional[str]:
        """Return why a process started now would inherit something else, or None."""
        name = process_state.changed_name(self._inherited, server_pid)
        return name and (
            f"what new processes inherit from this one has changed ({name}) since the forkserver"
            " was started; make that change before the first start"
        )

    def import_problem(self, use: EnvironUse) -> Optional[str]:
        """Return why importing the script now could have another result, or None."""
        now = ProcessSnapshot()
        since = "has changed since the forkserver imported the script"
        others = {*self._environ, *now._environ} if use.reads_all else set()
        for name in sorted(use.read | others):
            if self._environ.get(name) != now._environ.get(name):
                return f"the variable {name}, which importing the script reads, {since}"
        for name, value in sorted(use.written.items()):
            # A worker gets this process's variables, which replace what the import has set.
            if value != now._environ.get(name):
                return f"importing the script sets or deletes the variable {name}"
        threads = now._environ.get("OMP_NUM_THREADS", "")
        if threads != self._environ.get("OMP_NUM_THREADS", "") and not threads.isdigit():
            # A list of numbers, for nested regions: torch.set_num_threads() takes but one.
            return f"the variable OMP_NUM_THREADS {since}"
        for name, setting in self._settings.items():
            if setting != now._settings[name]:
                return f"{name} {since}"
        return None


# --- in the forkserver, while it imports the script ---------------------------


@contextlib.contextmanager
def replaced(owner: object, **attributes: object) -> Iterator[None]:
    """Set attributes of a class, module or object, and restore them at the end."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)  # a base class has it


def record_environ_reads(use: EnvironUse) -> ContextManager[None]:
    """Record which variables of the environment are read, and whether all of them are.

    Some packages go through all of them for those with a certain prefix. What these read by
    name then is recorded.
    """
    environ: Any = type(os.environ)
    upstream = environ.__getitem__

    def getitem(self: os._Environ[str], key: object) -> Any:
        if isinstance(key, (str, bytes)):
            use.read.add(os.fsdecode(key))
        return upstream(self, key)

    def bulk_read(name: str) -> Callable[[Any], object]:
        def method(self: Any) -> object:
            # Not by upstream's method, which reads each variable by __getitem__ of above: then
            # all would be recorded, for harmless readers as well.
            variables = {self.decodekey(k): self.decodevalue(v) for k, v in self._data.items()}
            if not use.reads_all and _reading_package(sys._getframe(1)) not in _HARMLESS_READERS:
                use.reads_all = True
            return variables if name == "copy" else getattr(variables, name)()

        return method

    return replaced(environ, __getitem__=getitem, **{name: bulk_read(name) for name in _BULK_READS})


def _reading_package(frame: FrameType) -> str:
    """Return the name of the first package that is not of the standard library."""
    while frame.f_back and _is_stdlib(frame.f_code.co_filename):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def record_environ_writes(
    written: Dict[str, Optional[str]],
) -> ContextManager[None]:
    """Record which variables of the environment are set or deleted, and their values then."""
    environ: Any = type(os.environ)
    set_upstream, delete_upstream = environ.__setitem__, environ.__delitem__

    def setitem(self: os._Environ[str], key: str, value: str) -> None:
        set_upstream(self, key, value)
        written[os.fsdecode(key)] = os.fsdecode(value)

    def delitem(self: os._Environ[str], key: str) -> None:
        delete_upstream(self, key)
        written[os.fsdecode(key)] = None

    return replaced(environ, __setitem__=setitem, __delitem__=delitem)


def record_atexit(files: Set[str], is_package_file: Callable[[str], bool]) -> ContextManager[None]:
    """Record the files that register with atexit what may be meant to happen once only.

    That is what the user's own code registers, and what removes files. What else packages
    register is fine in each worker, as it is in spawned ones.
    """
    upstream = atexit.register

    def register(function: Callable[..., object], *args: object, **kwargs: object) -> object:
        file = sys._getframe(1).f_code.co_filename
        removes_files = getattr(function, "__module__", "") in ("os", "posix", "shutil")
        if removes_files or not is_package_file(file):
            files.add(file)
        return upstream(function, *args, **kwargs)

    return replaced(atexit, register=register)


# --- whose code a file contains ------------------------------------------------


class PackageFolders:
    """Where this interpreter finds modules by itself, before it has the script's sys.path.

    Whether a folder is site-packages says nothing: packages also come from PYTHONPATH (which
    the modules of a cluster set), the user's site-packages, .pth files and editable installs.
    So the user's own code is what only the start of the script finds: in the script's folder,
    the current one, or one that the script adds to sys.path.
    """

    def __init__(self, script: Dict[str, Any]) -> None:
        main = script.get("init_main_from_path")
        own = script["dir"], script.get("orig_dir"), main and os.path.dirname(main)
        self._own = _folders(filter(None, own))
        self._package_folders = _folders(sys.path) - self._own

    def is_package_file(self, file: str) -> bool:
        """Return True if a file is not the user's own code."""
        folders = self._own | _folders(sys.path)
        matching = [folder for folder in folders if file.startswith(folder)]
        return not matching or max(matching, key=len) in self._package_folders


def _is_stdlib(file: str) -> bool:
    return file.startswith(("<", *_STDLIB_FOLDERS)) and not file.startswith(_SITE_FOLDERS)


def _folders(names: Iterable[object]) -> Set[str]:
    return {os.path.join(os.path.abspath(name), "") for name in names if isinstance(name, str)}
