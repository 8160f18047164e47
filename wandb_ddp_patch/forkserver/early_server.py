"""The process that becomes the forkserver, before it is known whether workers are wanted.

The script's process starts it in the background (early_start.py). It imports torch, and the
libraries that the script's process has imported, but not the script, which may do anything. When
the first workers are to start, it looks whether what it has imported is what it would import now.
If so, it goes on as a new forkserver begins. Else it ends, and a new one is started.

It writes nothing, neither to the standard streams nor to files, and ends when its parent does.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import threading
from typing import Any, Dict, Iterator, List, NoReturn, Optional

from . import open_files, preload, process_state
from .early_messages import FITS, TAKEN_OVER, receive
from .import_audit import (
    PackageFolders,
    record_atexit,
    record_environ_reads,
    record_environ_writes,
)

LOWEST_PRIORITY = 19
_HIGH_NUMBER = 64
# What C code reads from the environment when Python starts and when torch, NumPy and others are
# imported: nobody sees it do so. The beginnings of names.
_READ_BY_C = (
    *("ACC_", "ARROW_", "BLIS_", "DNNL_", "GFORTRAN_", "GLIBC_", "GOMP_", "GOTO_", "INTEL_"),
    *("I_MPI_", "KINETO_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL", "MPI_", "NPY_"),
    *("NUMPY_", "OMP", "ONEDNN_", "OPENBLAS_", "OPENSSL_", "PYTHON", "PYTORCH_", "TBB_"),
    *("TORCH_", "TZ", "VECLIB_"),
)


def main(channel_number: int, lifeline: int) -> None:
    """Get ready, then go on as multiprocessing's forkserver, or end.

    Args:
        channel_number: The descriptor of the socket to the script's process.
        lifeline: That of a pipe, whose other end closes when the script's process ends.
    """
    names = vars(sys.modules["__main__"])
    try:
        # Out of the way of numbers that the forkserver's own files are to have.
        moved = fcntl.fcntl(channel_number, fcntl.F_DUPFD_CLOEXEC, _HIGH_NUMBER)
        os.close(channel_number)
        with socket.socket(fileno=moved) as channel:
            with _in_background(lifeline):
                _prepare(channel)
                takeover, descriptors = receive(channel)
            _place([channel.fileno()], descriptors, takeover["numbers"])
            channel.send(TAKEN_OVER)
    except BaseException:
        _exit()
    before = dict(os.environ)
    preload.receive(takeover["request"])
    preload.report.problem = preload.report.problem or _rewritten(before)
    exec(takeover["command"], names)


def _exit() -> NoReturn:
    """End without a word: where it is needed, the script's process starts another one."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # wandb makes temporary folders when it is imported
    os._exit(1)


# --- what it is in the background ----------------------------------------------------


@contextlib.contextmanager
def _in_background(lifeline: int) -> Iterator[None]:
    """Have this process end with its parent, be silent, and leave the processor to others."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    # Ctrl-C is for the script.
    wanted = (signal.SIGIO, _end_by_signal), (signal.SIGINT, signal.SIG_IGN)
    handlers = [(number, signal.signal(number, handler)) for number, handler in wanted]
    _end_with(lifeline)
    # Parts of such files would be left where it is ended.
    writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _discard_output()
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    if _can_raise_priority(priority):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    yield
    process_state.set_priority(os.getpid(), priority)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    open_files.flush_c_streams()
    sys.dont_write_bytecode = writes_no_bytecode
    os.close(lifeline)
    for number, handler in handlers:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_by_signal(*_: object) -> NoReturn:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    # Nobody catches it but main(): the import of a library might catch SystemExit.
    raise _EndError


class _EndError(BaseException):
    pass


def _end_with(lifeline: int) -> None:
    # By a signal: torch's import takes seconds, in which nothing else would be looked at.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # the end came before the signal was asked for
        raise _EndError


def _discard_output() -> None:
    # What the libraries print they have printed in the script's process as well.
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.fstat(number)
            os.dup2(null, number)
    os.close(null)


def _can_raise_priority(priority: int) -> bool:
    """Return whether a lower priority can be taken back; tried with a thread, which has its own."""
    results: List[bool] = []

    def attempt() -> None:
        number = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, number, LOWEST_PRIORITY)
            os.setpriority(os.PRIO_PROCESS, number, priority)
            results.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(results)


# --- what it imports -------------------------------------------------------------------


class _MisfitError(Exception):
    """What has been imported can't be used."""


def _prepare(channel: socket.socket) -> None:
    """Import what the script's process says, until workers are wanted."""
    message, _ = receive(channel)
    preload.set_pythonpath(message["pythonpath"])
    preload.avoid_cuda_driver()
    descriptors = process_state.open_descriptors()
    resources = process_state.unforkable_resources()
    is_package_file = PackageFolders(message["script"]).is_package_file
    report = preload.report
    with contextlib.ExitStack() as recording:
        recording.enter_context(record_environ_reads(report.environ))
        recording.enter_context(record_environ_writes(report.environ.written))
        recording.enter_context(record_atexit(report.atexit_files, is_package_file))
        recording.enter_context(preload.libraries.recorded_torch_import())
        recording.enter_context(_as_worker(message["script"]))
        while "environ" not in message:
            sys.path[:] = message["sys_path"]
            preload.import_all(message["names"])
            message, _ = receive(channel)
    left = process_state.open_descriptors().keys() - descriptors.keys()
    if left or threading.active_count() > 1 or process_state.new_resource(resources):
        raise _MisfitError("forks would share it")
    if "torch" not in sys.modules or list(preload.stop_timers()):
        raise _MisfitError("no torch, or a timer")
    _check_environ(message["environ"])
    _check_files(message["files"])
    _set_environ({**message["environ"], **report.environ.written})
    channel.send(FITS)


@contextlib.contextmanager
def _as_worker(script: Dict[str, Any]) -> Iterator[None]:
    """Let libraries see what they see where a spawned worker imports them."""
    process: Any = multiprocessing.current_process()
    before = process.name, list(sys.argv), list(sys.path)
    process.name, sys.argv[:], process._inheriting = script["name"], script["sys_argv"], True
    yield
    del process._inheriting
    process.name, sys.argv[:], sys.path[:] = before


def _set_environ(environ: Dict[str, Optional[str]]) -> None:
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    for name, value in environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _check_environ(environ: Dict[str, str]) -> None:
    """Check that the imports would find the same environment now."""
    names = {name for name in {*environ, *os.environ} if environ.get(name) != os.environ.get(name)}
    names.discard(preload.CUDA_CHECK)
    if (names and preload.report.environ.reads_all) or any(map(_is_read, names)):
        raise _MisfitError("the environment")


def _is_read(name: str) -> bool:
    return name in preload.report.environ.read or name.startswith(_READ_BY_C)


def _check_files(files: Dict[str, Optional[str]]) -> None:
    """Check that packages come from where the script's process has them from."""
    for name, file in files.items():
        module = sys.modules.get(name)
        if module is not None and getattr(module, "__file__", None) != file:
            raise _MisfitError(name)


def _rewritten(before: Dict[str, str]) -> Optional[str]:
    """Return why the libraries should have been imported after the script's first lines."""
    for name, value in preload.report.environ.written.items():
        if value != before.get(name) and _is_read(name):
            return f"importing the script sets the variable {name}, which libraries read"
    return None


def _place(own: List[int], descriptors: List[int], numbers: List[int]) -> None:
    """Give descriptors that were received the numbers that they are to have."""
    top = max([*own, *descriptors, *numbers]) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, top) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for each, number in zip(moved, numbers):
        if number > 2:
            with contextlib.suppress(OSError):
                os.fstat(number)
                raise _MisfitError("a library has a file of that number")
        os.dup2(each, number)
        os.close(each)
