"""A script in a fork of a process that has imported wandb is as one with an interpreter."""

import functools
import os
import subprocess

import prepared
import pytest
import scripts

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")

# What it says of itself, and what a worker that it spawns says.
SCRIPT = """
    import atexit, json, multiprocessing, os, sys, tempfile, threading

    def look():
        print(__name__, os.getcwd(), os.environ["OWN"], flush=True)

    class Own:
        pass

    def answer(sender):
        look()
        sender.send(Own())

    if __name__ == "__main__":
        import __main__
        atexit.register(print, "at exit")
        print(sys.argv, sys.path[0], __main__.__file__, __main__.look is look)
        print(sorted(os.environ), tempfile.gettempdir(), sys.stdin.read())
        print(os.getsid(0) == os.getpid(), threading.active_count())
        print(sorted(os.listdir("/proc/self/fd")))
        look()
        receiver, sender = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=answer, args=(sender,))
        process.start()
        print(isinstance(receiver.recv(), Own))
        process.join()
        print("an error", file=sys.stderr, flush=True)
        exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('as asked')", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), 9)", -9),
    ],
)
def test_it_sees_and_does_the_same(tmp_path, end, code):
    (tmp_path / "temporary").mkdir()
    run = functools.partial(scripts.run_script, SCRIPT, end, cwd=tmp_path, returncode=code)
    env = {"OWN": "1", "TMPDIR": str(tmp_path / "temporary")}
    alone, forked = (
        run(env=env, start=start, start_new_session=True)
        for start in (subprocess.Popen, prepared.Popen)
    )
    assert forked.stdout == alone.stdout != ""
    assert ("as asked" in forked.stderr) == ("as asked" in alone.stderr)
    assert "an error" in forked.stderr and "an error" in alone.stderr


def test_the_end_of_one_takes_no_file_from_the_next(tmp_path):
    code = "import wandb\nwandb.Html('<b>bold</b>')\n"  # into a folder that an import has made
    for _ in range(2):
        scripts.run_script(code, cwd=tmp_path, start=prepared.Popen)


def test_one_that_hangs_is_ended(tmp_path):
    code = "import time\ntime.sleep(600)\n"
    with pytest.raises(AssertionError, match="still running after"):
        scripts.run_script(code, cwd=tmp_path, seconds=0.1, start=prepared.Popen)


def test_where_wandb_cannot_be_imported_it_says_so(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ValueError('no wandb')")
    env = {"PYTHONPATH": str(tmp_path)}
    with pytest.raises(AssertionError, match=r"the prepared process ended, 1:(.|\n)*no wandb"):
        scripts.run_script("pass\n", cwd=tmp_path, env=env, start=prepared.Popen)
