"""Two machines for tests: network and mount namespaces on this one, with a wire between.

They share the disk, but not the temporary folder, so neither a service's socket nor any
other file of the owner's can be reached from the other one.
"""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import prepared
import pytest
from conftest import clean_env
from limits import HANG_SECONDS

WIRE = str(Path(__file__).with_name("wire.py"))
IN, APART = ("ip", "netns", "exec"), ("unshare", "-m")
# Its first process is number 1, and sees no other machine's.
OWN_PIDS = ("--pid", "--fork", "--mount-proc", "--kill-child")
ADDRESSES = "10.77.0.1", "10.77.0.2"


class Machines:
    """Two machines: 0 and 1."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._stack = contextlib.ExitStack()
        name = uuid.uuid4().hex[:8]
        self.names = [f"wddp-{name}-{n}" for n in range(2)]
        self.processes = []

    def __enter__(self):
        with self._stack as stack:
            for n, name in enumerate(self.names):
                (self.folder / f"tmp{n}").mkdir(exist_ok=True)
                subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
                stack.callback(
                    subprocess.run, ["ip", "netns", "delete", name], check=True, capture_output=True
                )
            self._wire = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, WIRE, *self.names],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert self._wire.stdout.readline() == "ready\n", "there can be no wire"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, 9)
            process.wait(HANG_SECONDS)
        self._wire.stdin.close()
        self._stack.close()

    def wire(self, command):
        """Give the wire a command: see wire.py."""
        self._wire.stdin.write(command + "\n")
        self._wire.stdin.flush()
        assert self._wire.stdout.readline() == "done\n"

    def start(self, machine, *command, output=None, hosts=None, own_pids=False, **env):
        """Start a process on a machine, in the folder: a script in a prepared fork.

        Args:
            machine: 0 or 1.
            command: What is started, with its arguments.
            output: The file of its output; by default a pipe.
            hosts: Lines of its /etc/hosts.
            own_pids: Whether it has a PID namespace of its own, as in a container.
            env: Variables of its environment.
        """
        hidden = shlex.quote(str(self.folder / f"tmp{1 - machine}"))
        setting = f"mount -t tmpfs none {hidden}"
        if hosts is not None:
            setting += f" && mount --bind {hosts_file(self.folder, hosts)} /etc/hosts"
        name = self.names[machine]
        options = {
            "cwd": self.folder,
            "env": clean_env(TMPDIR=str(self.folder / f"tmp{machine}"), **env),
            "stdin": subprocess.DEVNULL,
            "stdout": output or subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "encoding": "utf-8",
            "start_new_session": True,
        }
        if own_pids or not str(command[1]).endswith(".py"):  # what is no script needs no wandb
            apart = (*APART, *OWN_PIDS) if own_pids else APART
            entry = ["sh", "-c", f'{setting} && exec "$@"', "sh", *map(str, command)]
            process = subprocess.Popen([*IN, name, *apart, *entry], **options)
        else:
            process = prepared.Popen(command, machine=[name, setting], **options)
        self.processes.append(process)
        return process


def hosts_file(folder, lines):
    """Write a file to stand for /etc/hosts, where this machine's own name is 127.0.1.1."""
    path = Path(folder) / f"hosts-{uuid.uuid4().hex[:8]}"
    own = socket.gethostname()
    path.write_text("\n".join(["127.0.0.1 localhost", f"127.0.1.1 {own}", *lines, ""]))
    return path


def permitted():
    """Say why there can be no machines here, or None."""
    if not sys.platform.startswith("linux"):
        return "machines are Linux namespaces"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    name = f"wddp-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    try:
        entry = [*IN, name, *APART, "mount", "-t", "tmpfs", "none", "/mnt"]
        mounted = subprocess.run(entry, capture_output=True, text=True)
        return f"nothing can be mounted: {mounted.stderr.strip()}" if mounted.returncode else None
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def machines(tmp_path):
    """Two machines, with a wire between."""
    yield from _made(tmp_path)


@pytest.fixture
def short_machines():
    """Two machines whose workers may use a forkserver."""
    yield from _short_machines()


@pytest.fixture(scope="module")
def same_machines():
    """The same two for each test of a module."""
    yield from _short_machines()


def _short_machines():
    """Make machines in a folder with a short path, for a forkserver.

    Its socket lies deep below the temporary folder, and no system takes a path of much more
    than 100 bytes, of which pytest's own folders take most.
    """
    folder = tempfile.mkdtemp(prefix="w-", dir="/tmp")
    try:
        yield from _made(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder):
    why = permitted()
    if why:
        pytest.skip(why)
    with Machines(folder) as made:
        yield made
