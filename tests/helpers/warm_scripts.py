"""Runs scripts without the seconds that their imports of torch and wandb take.

Each is run by a fork of an interpreter that has imported them: see warm_interpreter.py. That
serves for scripts about which it does not matter how their own process starts. What the script
starts itself is real: forkservers, wandb's service.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from limits import HANG_SECONDS
from scripts import clean_env

DRIVER = Path(__file__).with_name("warm_interpreter.py")
TORCH, BOTH = ("torch",), ("torch", "wandb")
CASES = Path(__file__).with_name("warm_cases.py")
# Elsewhere there is no fork, or none that torch survives, and each script is a new interpreter.
FORKS = sys.platform == "linux"


class WarmInterpreter:
    """An interpreter that has imported some modules."""

    def __init__(self, modules):
        self._name = f"wandb_ddp_patch {os.getpid()} {modules}"
        self._process = subprocess.Popen(
            [sys.executable, str(DRIVER), self._name, *modules],
            env=clean_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self.close)
        assert self._process.stdout.readline() == b"ready\n", f"can't import {modules}"

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def connect(self, request):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"\0{self._name}")
        connection.sendall(json.dumps(request).encode() + b"\n")
        return connection


@functools.lru_cache(maxsize=None)
def interpreter(*modules):
    return WarmInterpreter(modules)


class WarmScript:
    """A script that runs.

    Attributes:
        pid: The number of its process.
    """

    def __init__(self, folder, code, *args, imports=BOTH, env=None, spawns=0, is_file=True):
        """Start it.

        Args:
            folder: Where it is, and runs.
            code: Its text.
            args: What it is given.
            imports: The modules that its interpreter has imported.
            env: What is different from clean_env(); a value of None removes the name.
            spawns: How many processes it spawns whose own imports are not the point.
            is_file: Whether it is a file, and not what "python -c" is given.
        """
        script, self._out, self._err = (Path(folder, n) for n in ("script.py", "out", "err"))
        code, env = textwrap.dedent(code), clean_env(**(env or {}))
        script.write_text(code, "utf-8")
        if not FORKS:
            command = [str(script)] if is_file else ["-c", code]
            self._start_cold([sys.executable, *command, *args], folder, env)
            return
        for file in (self._out, self._err):
            file.write_text("")
        request = {
            "script": str(script) if is_file else "",
            "code": code,
            "args": args,
            "folder": str(folder),
            "env": env,
            "streams": [
                (os.devnull, os.O_RDONLY),
                (str(self._out), os.O_WRONLY),
                (str(self._err), os.O_WRONLY),
            ],
            "spawns": spawns,
        }
        self._connection = interpreter(*imports).connect(request)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def _start_cold(self, command, folder, env):
        with open(self._out, "w") as out, open(self._err, "w") as err:
            self._process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self._process.pid

    def wait(self, seconds=HANG_SECONDS):
        """Wait for its end, and return its exit status; after that time, kill it."""
        __tracebackhide__ = True
        if not FORKS:
            return self._process.wait(seconds)
        ready, _, _ = select.select([self._connection], [], [], seconds)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
            pytest.fail("\n".join((f"still running after {seconds} s:", *self.said())))
        with self._connection, self._answers:
            return int(self._answers.readline())

    def is_running(self):
        if not FORKS:
            return self._process.poll() is None
        return not select.select([self._connection], [], [], 0)[0]

    def wait_for_lines(self, count):
        """Wait until it has written so many lines, and return them."""
        __tracebackhide__ = True
        deadline = time.monotonic() + HANG_SECONDS
        while self._out.read_text("utf-8").count("\n") < count:
            assert self.is_running() and time.monotonic() < deadline, "\n".join(self.said())
            time.sleep(0.05)
        return self.said()[0].splitlines()

    def said(self):
        """Return what it has written so far, and its errors."""
        return self._out.read_text("utf-8"), self._err.read_text("utf-8")


def run_warm(code, *, folder, imports=BOTH, spawns=0, is_file=True, fails=False, quiet=True, **env):
    """Run a script until it ends; return its output, or its errors where it has to fail."""
    __tracebackhide__ = True
    script = WarmScript(folder, code, imports=imports, spawns=spawns, is_file=is_file, env=env)
    returncode = script.wait()
    out, err = script.said()
    assert bool(returncode) == fails, out + err
    if quiet and not fails:
        assert err == ""
    return err if fails else out


class Host:
    """A script that runs one case after another, whose workers come from one forkserver.

    A case is a module with a function main(). What it changes is undone after it: see
    warm_cases.py, which is the script's text after ``top``. Not undone is that wandb takes the
    folder of the first run for all: a case has to name its own to wandb.init().
    """

    def __init__(self, folder, top, *, imports=BOTH, spawns=0, **env):
        self.folder, self._count = Path(folder), 0
        code = top + CASES.read_text("utf-8")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            self._script = WarmScript(folder, code, port, imports=imports, env=env, spawns=spawns)
            deadline = time.monotonic() + HANG_SECONDS
            while not select.select([listener], [], [], 1)[0]:
                assert self._script.is_running() and time.monotonic() < deadline, self._dead()
            self._connection = listener.accept()[0]
        self._connection.settimeout(HANG_SECONDS)
        self._stream = self._connection.makefile("rw")

    def _dead(self, *said):
        return "\n".join(("the script that all cases share has died:", *said, *self._script.said()))

    def run(self, code, *, folder=None, quiet=True, **env):
        """Run a case, which must end well and say nothing of its own; return its output."""
        __tracebackhide__ = True
        self._count += 1
        name = f"case_{self._count}"
        (self.folder / f"{name}.py").write_text(textwrap.dedent(code), "utf-8")
        out, err = (self.folder / f"{name}.{kind}" for kind in ("out", "err"))
        case = {"name": name, "folder": str(folder or self.folder), "env": env}
        answer = self._ask({**case, "streams": [str(out), str(err)]})
        said = [file.read_text("utf-8") if file.exists() else "" for file in (out, err)]
        assert answer, self._dead(*said)
        assert answer == "done\n", "".join(said)
        if quiet:
            assert said[1] == ""
        return said[0]

    def _ask(self, case):
        try:
            print(json.dumps(case), file=self._stream, flush=True)
            return self._stream.readline()
        except OSError:  # also where the time is over
            with contextlib.suppress(OSError):
                os.kill(self._script.pid, signal.SIGTERM)
            return ""

    def close(self):
        """End the script, which must end well and say nothing of its own."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        returncode = self._script.wait()
        out, err = self._script.said()
        assert (returncode, err) == (0, ""), out + err
