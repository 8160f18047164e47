"""Builds of the package side by side, and the processes that machines.py has with each."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from machine_goals import OLD

HERE = Path(__file__).resolve().parent
TREE = HERE.parent


class Process(harness.Server):
    """One of machine_process.py's, with the package of a tree."""

    def __init__(self, tree, *words):
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
        }
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = sys.executable, str(HERE / "machine_process.py"), *map(str, words)
        super().__init__(*command, env=environment, cwd=self.folder.name)

    def begin(self, *words):
        """Send a line; :meth:`end` gives the answer."""
        print(*words, file=self.process.stdin, flush=True)

    def end(self):
        return json.loads(self._read())

    def __exit__(self, *exception):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.folder.cleanup()


@contextlib.contextmanager
def checkout(commit):
    """Check a commit out into a folder of its own; None, and why is printed, if that fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("it was ended"))  # git's note of it, too
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "before")
        try:
            git("worktree", "add", "--detach", str(tree), commit)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            print(f"{OLD} is left out: git can't check out {commit}: {str(why).strip()}")
            yield None
            return
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words):
    subprocess.run(["git", "-C", str(TREE), *words], check=True, capture_output=True, text=True)


class Build:
    """A build of the package, with an owner of a run.

    Args:
        stack: Ends its processes.
        tree: The package is there.
    """

    def __init__(self, stack, tree):
        self.stack, self.tree = stack, tree
        self.owner = self.process("owner")
        self.sent = 0
        found = self.owner.ask("package")
        if Path(found).resolve() != Path(tree).resolve():
            raise RuntimeError(f"{tree} was to be measured, and {found} was imported")

    def process(self, *words):
        return self.stack.enter_context(Process(self.tree, *words))

    def workers(self, count, key, where="elsewhere", port=0):
        """Have so many workers attach; give their process, and what a first row took of each."""
        process = self.process("workers")
        return process, self.connect(process, count, key, where, port)

    def connect(self, process, count, key, where="elsewhere", port=0):
        return process.ask("connect", count, key, self.owner.ask("payload", where, port))

    def relay(self, milliseconds):
        """Give the port of a line to the owner with that round trip."""
        return self.process("local_address", self.owner.ask("port"), milliseconds).ask("port")
