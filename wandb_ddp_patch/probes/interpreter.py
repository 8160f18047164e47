"""An interpreter, of whatever environment, that runs the probes it is told to."""

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
from typing import Deque, Dict, Optional, Tuple

from .verdict import TRACE_LINES, Verdict, from_line, hanging, last_lines

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Process:
    """An interpreter that runs probes, and imports wandb once for all of them."""

    def __init__(self, python: str, shim: bool) -> None:
        """Start it.

        Args:
            python: The interpreter. This package need not be installed there.
            shim: Whether the patches are on.
        """
        # It is killed, and with it what would have tidied up. A short name: the services'
        # sockets lie there, and no system takes a path of much more than 100 bytes.
        self._folder = tempfile.mkdtemp(prefix="wdp-")
        self._process = subprocess.Popen(
            [python, "-m", "wandb_ddp_patch.probes", "--json", "-"],
            cwd=os.path.join(_alone(), "empty"),
            env={**environment(python, shim), **_places(self._folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        # A thread, because what a hanging worker leaves open can't be waited for.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put(None)

    def ask(self, name: str, timeout: float) -> Tuple[Verdict, bool]:
        """Get a probe's verdict, and whether the process can be asked again.

        Args:
            name: A key of ``PROBES``.
            timeout: Seconds after which it counts as hanging.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died; the reader says so
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
        begun = time.monotonic()
        last: Deque[str] = collections.deque(maxlen=TRACE_LINES)
        verdict = self._answer(begun + timeout, last)
        if verdict is not None:
            return verdict, True
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs
            self._process.wait(max(0, begun + timeout - time.monotonic()))
        code = self._process.poll()
        reason = hanging(timeout)
        if code is not None:
            reason = f"died, exit code {code}: {last[-1].strip() if last else 'no output'}"
        seconds = round(time.monotonic() - begun, 2)
        return Verdict(name, False, reason, last_lines(last), seconds), False

    def _answer(self, deadline: float, last: Deque[str]) -> Optional[Verdict]:
        """Wait for a verdict, and gather what else the process writes."""
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                if self._process.poll() is None:
                    continue
                break  # its end is not always seen: a service may have the pipe, too
            if line is None:
                break
            verdict = from_line(line)
            if verdict is not None:
                return verdict
            if line.strip():
                last.append(line.rstrip())
        return None

    def kill(self) -> None:
        """End it and what it has left behind: hanging workers, services."""
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


def _places(folder: str) -> Dict[str, str]:
    """Give the variables that have what it writes be in a folder, not in the user's home."""
    names = ("TMPDIR", "TEMP", "TMP", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    return dict.fromkeys(names, folder)


def environment(python: str, shim: bool) -> Dict[str, str]:
    """Give the environment variables for an interpreter that gets this package, and no more.

    Args:
        python: The interpreter; this package need not be installed there.
        shim: Whether the patches are on.
    """
    path = [os.path.join(_alone(), "path")]
    if python == sys.executable:  # to another one, these packages mean nothing
        path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    env = {key: val for key, val in os.environ.items() if not key.startswith("WANDB_")}
    env.update(
        PYTHONPATH=os.pathsep.join(map(os.path.abspath, path)),
        PYTHONWARNINGS="ignore",
        WANDB_DDP_PATCH="1" if shim else "0",
        WANDB_SILENT="true",
    )
    return env


_copying = threading.Lock()


@functools.lru_cache(maxsize=None)
def _copy_of_us() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="wandb_ddp_patch-")
    os.mkdir(os.path.join(folder.name, "empty"))
    shutil.copytree(_PACKAGE, os.path.join(folder.name, "path", "wandb_ddp_patch"))
    return folder


def _alone() -> str:
    # What lies beside this package, and in the current folder, may be another
    # wandb than the one that is probed.
    with _copying:  # lru_cache would let two threads make two, and drop one
        return _copy_of_us().name
