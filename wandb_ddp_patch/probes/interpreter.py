"""A subprocess that runs probes, with the interpreter of any environment."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Deque, Dict, Iterable, List, Optional, Tuple

from . import forks
from .verdict import TRACE_LINES, Verdict, from_line, hanging, idling, last_line, last_lines

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class _Subprocess:
    """A subprocess that runs probes, and files of its own."""

    def __init__(self, python: str, patched: bool) -> None:
        """Start the subprocess.

        Args:
            python: The interpreter. This package need not be installed there.
            patched: Whether the patches are on.
        """
        # Temporary files of its own: it is going to be killed, together with whatever would have
        # removed them. A short name: the services' sockets are in there, and no system takes a
        # socket's path of much more than 100 bytes.
        self._folder = tempfile.mkdtemp(prefix="wdp-")
        self._process = subprocess.Popen(
            [python, "-m", "wandb_ddp_patch.probes", *self._arguments()],
            cwd=os.path.join(_isolated_copy(), "empty"),
            env={**environment(python, patched), **_write_below(self._folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        # In a thread: a worker that hangs keeps the pipe open, and a read from it can have no
        # time limit.
        threading.Thread(target=self._read, daemon=True).start()

    def _arguments(self) -> List[str]:
        raise NotImplementedError

    def _handle(self, line: Optional[str]) -> None:
        """Take a line of the output, or None at its end; called in a thread."""
        raise NotImplementedError

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._handle(line)
        self._handle(None)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which is found later
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """Kill the subprocess and what it has started: hanging workers, services."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, 9)
        elif self._process.poll() is None:
            tree = ["taskkill", "/T", "/F", "/PID", str(self._process.pid)]
            subprocess.run(tree, capture_output=True, check=False)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Interpreter(_Subprocess):
    """A subprocess that runs one probe after the other, and imports wandb once for all."""

    def __init__(self, python: str, patched: bool) -> None:
        """Start the subprocess; see :class:`_Subprocess`."""
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        super().__init__(python, patched)

    def _arguments(self) -> List[str]:
        return ["--json", "-"]

    def _handle(self, line: Optional[str]) -> None:
        self._lines.put(line)

    def run(self, name: str, timeout: float) -> Tuple[Verdict, bool]:
        """Run a probe.

        Args:
            name: A key of ``PROBES``.
            timeout: Seconds after which the probe counts as hanging.

        Returns:
            Its verdict, and whether the subprocess can run another probe.
        """
        self._send(name)
        begun = time.monotonic()
        last: Deque[str] = collections.deque(maxlen=TRACE_LINES)
        verdict = self._read_verdict(begun + timeout, last)
        if verdict is not None:
            return verdict, True
        # Its end of the pipe is closed, or the time is up. Wait for its exit code, if it has one.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0, begun + timeout - time.monotonic()))
        code = self._process.poll()
        reason = hanging(timeout) if code is None else _died(code, last)
        seconds = round(time.monotonic() - begun, 2)
        return Verdict(name, False, reason, last_lines(last), seconds), False

    def _read_verdict(self, deadline: float, last: Deque[str]) -> Optional[Verdict]:
        """Return the verdict once it is printed, or None; collect what else is printed."""
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                if self._process.poll() is None:
                    continue
                break  # there may be no end of file: a service may have inherited the pipe
            if line is None:
                break
            verdict = from_line(line)
            if verdict is not None:
                return verdict
            if line.strip():
                last.append(line.rstrip())
        return None


class ForkingInterpreter(_Subprocess):
    """A subprocess that forks a process for each probe: see forks.py."""

    def __init__(self, python: str, patched: bool) -> None:
        """Start the subprocess; see :class:`_Subprocess`."""
        self._groups: Dict[str, int] = {}  # by probe, those that run
        self._ends: Dict[str, queue.Queue[Optional[int]]] = {}  # by probe, its exit code
        self._is_over = False
        self._last: Deque[str] = collections.deque(maxlen=TRACE_LINES)  # of its own output
        super().__init__(python, patched)

    def _arguments(self) -> List[str]:
        return ["--forks", self._folder]

    def _handle(self, line: Optional[str]) -> None:
        if line is None:
            self._is_over = True
            for end in list(self._ends.values()):
                end.put(None)
            return
        what, name, number = [*line.split(), "", "", ""][:3]
        if what == "started":
            self._groups[name] = int(number)
        elif what == "ended":
            self._groups.pop(name, None)
            self._ends[name].put(int(number))
        else:
            self._last.append(line.rstrip())

    def run(self, name: str, timeout: float, idle: float) -> Tuple[Verdict, bool]:
        """Run a probe; see :meth:`Interpreter.run`. May be called in several threads.

        Args:
            name: A key of ``PROBES``.
            timeout: Seconds after which the probe counts as hanging.
            idle: Seconds without work of its processes, after which it does.
        """
        end = self._ends[name] = queue.Queue()
        begun = time.monotonic()
        self._send(name)
        code, watch = None, forks.IdleWatch()
        hangs = hanging(timeout)
        while code is None and not self._is_over and time.monotonic() < begun + timeout:
            with contextlib.suppress(queue.Empty):
                code = end.get(timeout=1)
            if code is None and watch.seconds(self._groups.get(name)) > idle:
                hangs = idling(time.monotonic() - begun)
                break
        if code is None:
            self._send(f"kill {name}")
            with contextlib.suppress(queue.Empty):
                end.get(timeout=5)
        lines = forks.read_output(self._folder, name)
        for verdict in filter(None, map(from_line, lines)):
            return verdict, not self._is_over
        if self._is_over:
            code, lines = self._process.wait(), list(self._last)
        reason = hangs if code is None else _died(code, lines)
        seconds = round(time.monotonic() - begun, 2)
        return Verdict(name, False, reason, last_lines(lines), seconds), not self._is_over

    def kill(self) -> None:
        """Kill the subprocess and all probes."""
        for group in list(self._groups.values()):
            forks.kill(group)
        super().kill()


def _died(code: int, lines: Iterable[str]) -> str:
    return f"died, exit code {code}: {last_line(chr(10).join(lines))}"


def _write_below(folder: str) -> Dict[str, str]:
    """Return environment variables that keep what wandb writes out of the user's home."""
    names = ("TMPDIR", "TEMP", "TMP", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    return dict.fromkeys(names, folder)


def environment(python: str, patched: bool) -> Dict[str, str]:
    """Return environment variables by which an interpreter finds this package, and no other.

    Args:
        python: The interpreter. This package need not be installed there.
        patched: Whether the patches are on.
    """
    path = [os.path.join(_isolated_copy(), "path")]
    if python == sys.executable:  # another one might load packages that are not made for it
        path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    env = {key: val for key, val in os.environ.items() if not key.startswith("WANDB_")}
    env.update(
        PYTHONPATH=os.pathsep.join(map(os.path.abspath, path)),
        PYTHONWARNINGS="ignore",
        WANDB_DDP_PATCH="1" if patched else "0",
        WANDB_SILENT="true",
    )
    return env


_copying = threading.Lock()


@functools.lru_cache(maxsize=None)
def _copy_package() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="wandb_ddp_patch-")
    os.mkdir(os.path.join(folder.name, "empty"))
    shutil.copytree(_PACKAGE, os.path.join(folder.name, "path", "wandb_ddp_patch"))
    return folder


def _isolated_copy() -> str:
    """Return a folder with an ``empty`` folder in it, and this package alone in ``path``."""
    # What is beside this package, or in the current folder, may be another wandb than the one
    # that is probed.
    # The lock: lru_cache would let two threads make two copies, and drop one, whose folder
    # would be removed while an interpreter uses it.
    with _copying:
        return _copy_package().name
