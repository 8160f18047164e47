"""Gets ready for the first start of workers while the script still imports and loads.

A process in the background imports torch and other libraries (early_server.py). At the first
start, server.py takes it for the forkserver, if it is still what a new one would be. Otherwise,
or where no workers are ever started, it is ended, and all is as if it had never been.
"""

from __future__ import annotations

import contextlib
import multiprocessing.context
import os
import signal
import socket
import sys
import time
from multiprocessing import connection, spawn, util
from types import ModuleType
from typing import Any, Dict, List, Optional, Sequence

from .. import _lifecycle
from . import command, process_state
from .early_messages import FITS, TAKEN_OVER, send

# Libraries that take long to import, and whose import does nothing that forks would share. They
# are imported there once they are in this process: most scripts import them at their top.
_FOLLOWED = frozenset(
    {"accelerate", "datasets", "lightning", "matplotlib", "numpy", "pandas", "pyarrow"}
    | {"pytorch_lightning", "scipy", "sklearn", "torchaudio", "torchmetrics", "torchvision"}
    | {"tqdm", "transformers", "wandb"}
)
# Read at the start of Python, and by C code; and set by scripts.
_DECISIVE = "MKL_", "OMP_", "OPENBLAS_", "PYTHON"
_END_SECONDS = 5
_RAISE_SECONDS = 0.05
_SCRIPT_KEYS = "name", "sys_argv", "dir", "orig_dir", "init_main_from_path"


class EarlyServer:
    """The process in the background, as the script's process has it."""

    def __init__(self) -> None:
        self._inherited = process_state.inherited_state()
        self._decisive = _decisive_variables()
        self._streams = _streams()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Closed when this process ends, however it does: so that one ends as well.
        lifeline, self._lifeline = os.pipe()
        self._channel.setblocking(False)
        self._untold: List[str] = []
        # What is being imported of the libraries that are followed.
        self._importing: Optional[str] = None
        try:
            data = _preparation_data()
            self._send(
                script={key: data[key] for key in _SCRIPT_KEYS if key in data},
                pythonpath=os.environ.get("PYTHONPATH"),
                names=[*_loaded(), "torch.multiprocessing"],
            )
            self._pid = self._spawn(theirs.fileno(), lifeline)
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)

    @staticmethod
    def _spawn(*descriptors: int) -> int:
        call = f"from {command.__package__}.early_server import main; main%r" % (descriptors,)
        program = os.fsencode(spawn.get_executable())
        module: Any = util
        flags = module._args_from_interpreter_flags()
        arguments = [program, *flags, "-c", command.WITHOUT_CURRENT_FOLDER + call]
        with command.package_passed_on():
            number: int = module.spawnv_passfds(program, arguments, descriptors)
        return number

    def follow(self, name: str) -> None:
        """Take note that a module is being imported, and tell of the one that was before."""
        if self._importing is not None:
            # Those that it imports itself are imported with it.
            module = sys.modules.get(self._importing)
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                return
            if module is not None:
                self._untold.append(self._importing)
            self._importing = None
        if name.partition(".")[0] in _FOLLOWED:
            self._importing = name
        if self._untold:
            # Later, where it has much to read. The user's import must not fail for it.
            with contextlib.suppress(Exception):
                self._send(names=self._untold)
                self._untold = []

    def _send(self, **message: object) -> None:
        send(self._channel, {"sys_path": sys.path, **message})

    def fits(self) -> bool:
        """Return True if it is what a forkserver would be that is started now.

        Raises:
            OSError: It has ended.
        """
        if process_state.changed_name(self._inherited, self._pid) or self._streams != _streams():
            return False
        # It would find that out itself, but only once it has imported all.
        if self._decisive != _decisive_variables():
            return False
        self.follow("")
        self._channel.setblocking(True)
        self._send(environ=dict(os.environ), files=_files())
        self._raise_priority()
        # Again and again: it may have begun so late that it lowers its priority only now.
        while not connection.wait([self._channel], _RAISE_SECONDS):
            self._raise_priority()
        return self._channel.recv(len(FITS)) == FITS

    def become(self, line: str, request: str, numbers: Sequence[int]) -> int:
        """Have it go on as a new process would begin.

        Args:
            line: The Python command of the new process.
            request: The path of preload.py's request.
            numbers: The descriptors that the new process would inherit.

        Returns:
            Its process number.

        Raises:
            OSError: It has ended.
        """
        passed = [
            *numbers,
            *(n for n, is_terminal in enumerate(self._streams) if is_terminal is not None),
        ]
        message = {"command": line, "request": request, "numbers": passed}
        send(self._channel, message, passed)
        if self._channel.recv(len(TAKEN_OVER)) != TAKEN_OVER:
            raise ConnectionResetError
        self._close()
        return self._pid

    def end(self) -> None:
        """End it and wait for that."""
        self._close()
        with contextlib.suppress(OSError):
            self._raise_priority()  # to end at once, it needs the processor
        with contextlib.suppress(ChildProcessError):
            end_child(self._pid)
            os.waitpid(self._pid, 0)

    def forget(self) -> None:
        """Let go of it, in a fork of the process that has started it."""
        self._close()

    def _raise_priority(self) -> None:
        process_state.set_priority(self._pid, os.getpriority(os.PRIO_PROCESS, 0))

    def _close(self) -> None:
        self._channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _preparation_data() -> Dict[str, Any]:
    # It asks for the start method, and that sets it: the script could set none any more.
    default: Any = multiprocessing.context._default_context
    before = default._actual_context
    try:
        return spawn.get_preparation_data("SpawnProcess-1")
    finally:
        default._actual_context = before


def _loaded() -> List[str]:
    # In their order here: some libraries have to be imported before others.
    return [name for name in list(sys.modules) if name.partition(".")[0] in _FOLLOWED]


def _files() -> Dict[str, Optional[str]]:
    """Return where packages have been imported from."""
    return {
        name: getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        # By its type: to ask a lazy module for anything imports it.
        if "." not in name and type(module) is ModuleType and not name.endswith("main__")
    }


def _decisive_variables() -> Dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_DECISIVE)}


def _streams() -> List[Optional[bool]]:
    """Return of each standard stream whether it is a terminal; None if it is closed."""
    found: List[Optional[bool]] = []
    for number in range(3):
        try:
            os.fstat(number)
            found.append(os.isatty(number))
        except OSError:
            found.append(None)
    return found


def end_child(pid: int) -> None:
    """Wait until a process that has been told to end does, and kill it where that takes long.

    It is left to be collected, so that its number is no other process's meanwhile.

    Raises:
        ChildProcessError: It has been collected.
    """
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    deadline = time.monotonic() + _END_SECONDS
    while os.waitid(os.P_PID, pid, flags) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.002)


# --- the one of this process ---------------------------------------------------------

_early: Optional[EarlyServer] = None
_begun_in = 0  # the process that has once begun, for good or in vain


def begin() -> None:
    """Start the process in the background, unless it has been. Never raises."""
    global _early, _begun_in
    with contextlib.suppress(Exception):
        if _begun_in == os.getpid() or _has_forkserver():
            return
        _begun_in = os.getpid()
        _lifecycle.at_interpreter_exit(discard)
        _early = EarlyServer()
        _finder().on_search = _early.follow


def _release() -> Optional[EarlyServer]:
    """Return the process in the background, if there is one, and follow imports no more."""
    global _early
    early, _early = _early, None
    _finder().on_search = None
    return early


def take() -> Optional[EarlyServer]:
    """Return the early server if it is what a new forkserver would be; otherwise end it.

    It is the caller's from then on.
    """
    early = _release()
    if early is None:
        return None
    try:
        if os.fsencode(spawn.get_executable()) == os.fsencode(sys.executable) and early.fits():
            return early
    except OSError:
        pass
    except BaseException:  # Ctrl-C
        early.end()
        raise
    early.end()
    return None


def discard() -> None:
    """End the process in the background, if there is one."""
    early = _release()
    if early is not None:
        early.end()


@_lifecycle.in_forked_child()
def _forget() -> None:
    early = _release()
    if early is not None:
        early.forget()


def _finder() -> Any:
    return sys.modules[__name__.split(".")[0]]._finder


def _has_forkserver() -> bool:
    module = sys.modules.get("multiprocessing.forkserver")
    return module is not None and module._forkserver._forkserver_pid is not None
