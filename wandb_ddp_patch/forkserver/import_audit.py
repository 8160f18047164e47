"""What importing a script may depend on: as it was for the forkserver, and as it is now.

A spawned worker imports the script as things are when it is started. A forkserver's worker
has what was imported before: for unchanged scripts, things must not have changed since.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from multiprocessing import spawn
from typing import Any, Callable, Dict, Iterator, Optional, Set

from . import kernel, package_folders


class EnvironUse:
    """What importing the script has done with the environment's variables."""

    def __init__(self) -> None:
        self.read: Set[str] = set()
        self.whole = False  # whether it may have read any
        # The values that it has left; None where it has deleted the variable.
        self.written: Dict[str, Optional[str]] = {}


class ProcessSnapshot:
    """Those of this process, as they are now."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        data = spawn.get_preparation_data("")
        self._others = {
            "its main module": [data.get(f"init_main_from_{how}") for how in ("name", "path")],
            "sys.argv": [str(argument) for argument in sys.argv],
            "sys.path": [str(folder) for folder in data["sys_path"]],
            "its working directory": data["dir"],
        }
        self._handed_on = kernel.handed_on()

    def handed_on_changed(self, server: Optional[int]) -> Optional[str]:
        """Say why a new process would now be another one to the system, or None.

        Args:
            server: The number of the forkserver.
        """
        name = kernel.changed(self._handed_on, server)
        return name and (
            f"what this process hands on to a new one has changed ({name}) since the forkserver"
            " was started; let that be done before the first start"
        )

    def changed(self, use: EnvironUse) -> Optional[str]:
        """Say why importing the script now may be another thing, or None."""
        now = ProcessSnapshot()
        since = "has changed since the forkserver has imported the script"
        every = {*self.environ, *now.environ} if use.whole else set()
        for name in sorted(use.read | every):
            if self.environ.get(name) != now.environ.get(name):
                return f"the variable {name}, which is read when the script is imported, {since}"
        for name, value in sorted(use.written.items()):
            # Workers get this process's variables over what the import has left.
            if value != now.environ.get(name):
                return f"importing the script sets or deletes the variable {name}, each time"
        threads = now.environ.get("OMP_NUM_THREADS", "")
        if threads != self.environ.get("OMP_NUM_THREADS", "") and not threads.isdigit():
            # Which arrival.py can't hand to a torch that has read it.
            return f"the variable OMP_NUM_THREADS {since}"
        for name, value in self._others.items():
            if value != now._others[name]:
                return f"{name} {since}"
        return None


# --- in the forkserver --------------------------------------------------------


@contextlib.contextmanager
def record_environ_reads(use: EnvironUse) -> Iterator[None]:
    """Note which of the environment's variables are read, and whether all of them are.

    Some packages look through all for those whose names begin with theirs: of those,
    what is read by name counts.
    """
    environ: Any = type(os.environ)
    upstream = {name: vars(environ).get(name) for name in ("__getitem__", *_WHOLE)}

    def getitem(self: Any, key: Any) -> Any:
        if isinstance(key, (str, bytes)):
            use.read.add(os.fsdecode(key))
        return upstream["__getitem__"](self, key)

    def whole(name: str) -> Callable[[Any], Any]:
        def method(self: Any) -> Any:
            all_of_it = {self.decodekey(k): self.decodevalue(v) for k, v in self._data.items()}
            use.whole = use.whole or _reader(sys._getframe(1)) not in _HARMLESS
            return all_of_it if name == "copy" else getattr(all_of_it, name)()

        return method

    environ.__getitem__ = getitem
    for name in _WHOLE:
        setattr(environ, name, whole(name))
    try:
        yield
    finally:
        for name, method in upstream.items():
            if method is None:
                delattr(environ, name)
            else:
                setattr(environ, name, method)


@contextlib.contextmanager
def record_environ_writes(written: Dict[str, Optional[str]]) -> Iterator[None]:
    """Note the environment's variables that are set or deleted, and their values then."""
    environ: Any = type(os.environ)
    upstream = {name: vars(environ)[name] for name in ("__setitem__", "__delitem__")}

    def setitem(self: Any, key: Any, value: Any) -> None:
        upstream["__setitem__"](self, key, value)
        written[os.fsdecode(key)] = os.fsdecode(value)

    def delitem(self: Any, key: Any) -> None:
        upstream["__delitem__"](self, key)
        written[os.fsdecode(key)] = None

    environ.__setitem__, environ.__delitem__ = setitem, delitem
    try:
        yield
    finally:
        for name, method in upstream.items():
            setattr(environ, name, method)


@contextlib.contextmanager
def record_atexit(files: Set[str], is_a_package: Callable[[str], bool]) -> Iterator[None]:
    """Note the files of functions that have atexit do what may be meant for once only.

    Those are the user's own, and who removes files. What else packages do at the end of a
    process, each worker does.
    """
    module: Any = atexit
    register = module.register

    def note(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        file = sys._getframe(1).f_code.co_filename
        removes = getattr(function, "__module__", "") in ("os", "posix", "shutil")
        if removes or not is_a_package(file):
            files.add(file)
        return register(function, *args, **kwargs)

    module.register = note
    try:
        yield
    finally:
        module.register = register


_WHOLE = "__iter__", "copy", "items", "keys", "values"
# For their own settings, for a proxy, or to hand it to another program. wandb brings git and
# sentry_sdk up to 0.21.
_HARMLESS = "fsspec", "git", "sentry_sdk", "tqdm", __name__.split(".")[0]


def _reader(frame: Any) -> str:
    """Name the package of the first that is not of the standard library."""
    while frame.f_back and package_folders.is_of_python(frame.f_code.co_filename):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).split(".")[0]
