"""Starts scripts as a user does, and shows what they said where one fails."""

import contextlib
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from limits import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "0123456789" * 4
# What scripts of workers are run with: wandb asks for a key, and old releases warn of much.
WORKER_ENV = {"WANDB_API_KEY": API_KEY, "PYTHONWARNINGS": "ignore"}


def clean_env(**changes):
    """The environment of a user who has never heard of these tests."""
    strange = ("WANDB_", "PYTEST_", "COV_", "PYTHON")
    env = {k: v for k, v in os.environ.items() if not k.startswith(strange)}
    # The environment that the tests run in may have our start-up files.
    path = [ROOT / "tests" / "no_startup", ROOT, ROOT / "testbed"]
    env.update(WANDB_MODE="offline", WANDB_SILENT="true")
    env.update(PYTHONPATH=os.pathsep.join(map(str, path)))
    env.update(changes)
    return {key: value for key, value in env.items() if value is not None}


def run_script(
    script,
    *args,
    cwd=None,
    python=sys.executable,
    before=(),
    env=None,
    returncode=0,
    seconds=HANG_SECONDS,
    start=subprocess.Popen,
    **popen,
):
    """Run a script until it ends.

    Args:
        script: A path, or the text of a script, which is written to script.py in ``cwd``, or
            the first option of an interpreter: "-c", "-m", "-".
        args: What the script, or the interpreter, is given.
        cwd: The current folder.
        python: The interpreter.
        before: A command that starts the interpreter: it stands before it.
        env: What is different from clean_env(); a value of None removes the name.
        returncode: The exit status that it must have, or None for any.
        seconds: How long it may take.
        start: What starts it: this, or prepared.Popen.
        popen: What else subprocess.Popen is given, and ``input``, the text to read.

    Returns:
        A subprocess.CompletedProcess with the text that it wrote.
    """
    __tracebackhide__ = True
    if "\n" in str(script):
        file = Path(cwd, "script.py")
        file.write_text(textwrap.dedent(script), "utf-8")
        script = file
    command = [*map(str, (*before, python, script, *args))]
    text = popen.pop("input", None)
    popen.setdefault("stdin", subprocess.DEVNULL if text is None else subprocess.PIPE)
    with contextlib.ExitStack() as stack:
        # No pipes: a service that outlives the script would hold them, and keep us waiting.
        out = popen.setdefault("stdout", stack.enter_context(text_file()))
        err = popen.setdefault("stderr", stack.enter_context(text_file()))
        process = start(command, cwd=cwd, env=clean_env(**(env or {})), encoding="utf-8", **popen)
        try:
            process.communicate(text, timeout=seconds)
            ended = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"still running after {seconds} s"
        finally:
            _end(process, popen.get("start_new_session"))
        done = subprocess.CompletedProcess(command, process.returncode, read(out), read(err))
    is_expected = returncode is None or process.returncode == returncode
    assert ended.startswith("exit") and is_expected, f"{ended}:\n{done.stdout}{done.stderr}"
    return done


def text_file():
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def read(file):
    if not hasattr(file, "read"):
        return ""  # it is in the other one, or nobody's
    file.seek(0)
    return file.read()


def _end(process, is_session):
    if process.poll() is None:
        process.kill()
        process.wait()
    elif process.returncode == -9:
        return  # its workers have to end by themselves then
    if is_session:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, 9)
