"""Starts scripts in forks of a process that has imported wandb, where no test is about imports.

To import wandb takes longer than what most scripts do. A fork is a process of its own: it has
its own run, folder, environment, output and end, as an interpreter that was started for it.
"""

import array
import atexit
import collections
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from scripts import clean_env, read, text_file

SCRIPT = str(Path(__file__).parents[1] / "workers" / "prepared_process.py")
_AT_MOST = 6  # processes that wait, each with a wandb in its memory
# What wandb and this package read when a run begins; the rest they may read when imported.
_LATE = ("API_KEY", "BASE_URL", "MODE", "RUN_ID", "SERVICE", "SILENT")
_LATE = {*(f"WANDB_{name}" for name in _LATE), "WANDB_DDP_PATCH_SHARE"}
_LATE |= {"WANDB_DDP_PATCH_SHARE_SECONDS"}
_waiting = collections.OrderedDict()


class _Prepared:
    """A process of prepared_process.py."""

    def __init__(self, python, env):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = text_file()
        with theirs:
            self._process = subprocess.Popen(
                [python, SCRIPT], stdin=theirs, stdout=self._said, stderr=self._said, env=env
            )
        self._told, self._count = {}, 0

    def send(self, script, fds):
        """Have a script begun; return its number."""
        self._count += 1
        request = json.dumps({"number": self._count, "script": script}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._socket.settimeout(None)
        try:
            assert self._socket.sendmsg([request], rights) == len(request)
        except OSError:
            self._fail()
        return self._count

    def next_told(self, number, timeout):
        """Return the next number that is told of a script; None if nothing comes in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        told = self._told.setdefault(number, [])
        while not told:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(4096)
            except (socket.timeout, BlockingIOError):
                return None
            except ConnectionResetError:
                data = b""
            if not data:
                self._fail()
            one, said = map(int, data.split())
            self._told.setdefault(one, []).append(said)
        return told.pop(0)

    def _fail(self):
        self._process.wait()
        for key in [key for key, value in _waiting.items() if value is self]:
            del _waiting[key]
        code = self._process.returncode
        raise AssertionError(f"the prepared process ended, {code}:\n{read(self._said)}")

    def close(self):
        """Let it end; what it has forked goes on."""
        self._socket.close()
        self._process.wait()


def _get(python, env):
    early = {k: v for k, v in env.items() if k.startswith(("WANDB_", "PYTHON")) and k not in _LATE}
    key = (python, *sorted(early.items()))
    if key not in _waiting:
        while len(_waiting) >= _AT_MOST:
            _waiting.popitem(last=False)[1].close()
        _waiting[key] = _Prepared(python, clean_env(**early))
    _waiting.move_to_end(key)
    return _waiting[key]


@atexit.register
def _close():
    while _waiting:
        _waiting.popitem()[1].close()


class _Fork:
    """A script in a fork: what tests use of subprocess.Popen.

    Args:
        command: An interpreter; then a script, or "-c" and code; then the script's arguments.
        stdin, stdout: Files, subprocess.DEVNULL or subprocess.PIPE.
        stderr: A file, subprocess.DEVNULL or subprocess.STDOUT.
        details: ``start_new_session``; and ``machine``, the name of a network namespace, or
            None for a new one, and commands of a shell there, with mounts of its own.
    """

    returncode = None

    def __init__(self, command, cwd, env, stdout, stderr, stdin=None, encoding=None, **details):
        python, *arguments = map(str, command)
        script = {"arguments": arguments, "cwd": str(cwd), "env": env, **details}
        self._prepared = _get(python, env)
        with contextlib.ExitStack() as stack:
            null = stack.enter_context(open(os.devnull, "r+b")).fileno()
            theirs, self.stdin = _end_of(stdin, "w", null, encoding, stack)
            fds = [theirs]
            theirs, self.stdout = _end_of(stdout, "r", null, encoding, stack)
            fds += [theirs, theirs]
            if stderr != subprocess.STDOUT:
                fds[2], _ = _end_of(stderr, "r", null, encoding, stack)
            self._number = self._prepared.send(script, fds)
        self.pid = self._prepared.next_told(self._number, None)

    def poll(self):
        return self._ended(0)

    def wait(self, timeout=None):
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired("a script in a fork", timeout)
        return self.returncode

    def communicate(self, text=None, timeout=None):
        assert text is None
        said = []
        reader = threading.Thread(target=lambda: said.append(self.stdout.read()))
        if self.stdout:
            reader.start()
        self.wait(timeout)
        if self.stdout:
            reader.join(timeout)
        return "".join(said), None

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, timeout):
        if self.returncode is None:
            self.returncode = self._prepared.next_told(self._number, timeout)
        return self.returncode


def _end_of(file, mode, null, encoding, stack):
    """Return the descriptor that a script gets; and of a pipe, the other end."""
    if file in (None, subprocess.DEVNULL):
        return null, None
    if file != subprocess.PIPE:
        return file.fileno(), None
    ours, theirs = os.pipe() if mode == "r" else reversed(os.pipe())
    stack.callback(os.close, theirs)
    return theirs, open(ours, mode, encoding=encoding)


# As on Windows, where there is no fork: an interpreter of its own.
Popen = _Fork if hasattr(os, "fork") else subprocess.Popen
