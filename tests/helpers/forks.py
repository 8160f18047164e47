"""Runs code in forks of an interpreter that has imported what the code would import.

To import wandb takes longer than what most tests do with it. This is for those that are not
about how an interpreter starts, nor about the import of what is imported here already.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from limits import HANG_SECONDS, SOON_SECONDS
from scripts import clean_env, run_script

# What wandb imports, but for what we watch: an import of wandb then runs only its own modules.
WHAT_WANDB_IMPORTS = """
import importlib, subprocess, sys
ask = [sys.executable, "-c", "import wandb, sys; print(*sys.modules)"]
for name in subprocess.run(ask, stdout=subprocess.PIPE, check=True, text=True).stdout.split():
    if name.partition(".")[0] not in ("torch", "wandb", "yaml"):
        importlib.import_module(name)
assert not {"torch", "wandb", "yaml"} & set(sys.modules)
"""
WANDB = "import wandb"
PATCHED_WANDB = "import wandb_ddp_patch, wandb"

# The code is run as the last statement, so that the fork ends as any script does.
SERVER = """
{imports}
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
for asked in iter(sys.stdin.readline, ""):
    asked = json.loads(asked)
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        break
    status = os.waitpid(pid, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    print(code, file=answers, flush=True)
else:
    sys.exit()
answers.close()
for number, path in enumerate((os.devnull, asked["out"], asked["err"])):
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(opened, number)
    os.close(opened)
os.chdir(asked["cwd"])
os.environ.update(asked["env"])
__file__ = asked["file"]
sys.path[0], sys.argv[:] = asked["cwd"], [__file__]
exec(compile(open(__file__, encoding="utf-8").read(), __file__, "exec"))
"""


class Forks:
    """An interpreter that has imported something, and is forked for each piece of code.

    Args:
        imports: The statements that it runs first, once.
        folder: Where it is started.
    """

    def __init__(self, imports, folder):
        self._imports, self._folder = imports, Path(folder)
        self._server = self._said = None

    def run(self, code, cwd, env):
        """Run code in a fork, in a folder, until it ends; return what it said as run_script()."""
        code = textwrap.dedent(f"{code}\n")
        if not hasattr(os, "fork"):
            return run_script(f"{self._imports}\n{code}", cwd=cwd, env=env, returncode=None)
        with tempfile.TemporaryDirectory() as folder:
            script, *said = (Path(cwd, "script.py"), Path(folder, "out"), Path(folder, "err"))
            script.write_text(code, "utf-8")
            out, err = map(str, said)
            asked = {"file": str(script), "cwd": str(cwd), "out": out, "err": err, "env": env}
            returncode = self._ask(json.dumps(asked))
            texts = [path.read_text("utf-8", "replace") for path in said]
        return subprocess.CompletedProcess([str(script)], returncode, *texts)

    def _ask(self, line):
        if self._server is None:
            self._start()
        with contextlib.suppress(OSError):  # it has ended, which its answer shows
            print(line, file=self._server.stdin, flush=True)
        ready, _, _ = select.select([self._server.stdout], [], [], HANG_SECONDS)
        answer = self._server.stdout.readline() if ready else f"no end after {HANG_SECONDS} s"
        if not answer.endswith("\n"):
            self.close()
            self._said.seek(0)
            answer = answer or "it has ended"
            raise AssertionError(f"{answer}:\n{self._imports}\n{self._said.read()}")
        return int(answer)

    def _start(self):
        file = self._folder / "imports.py"
        file.write_text(SERVER.replace("{imports}", self._imports), "utf-8")
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._server = subprocess.Popen(
            [sys.executable, str(file)],
            cwd=self._folder,
            env=clean_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
            start_new_session=True,
        )

    def close(self):
        """End the interpreter, and what it has started."""
        if self._server is not None:
            server, self._server = self._server, None
            with contextlib.suppress(OSError):
                server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(SOON_SECONDS)
            with contextlib.suppress(OSError):
                os.killpg(server.pid, 9)
            server.wait()
            server.stdout.close()
