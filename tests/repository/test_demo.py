"""The demo, as a reader sees it: in a pipe, and in a terminal."""

import os
import re
import struct
import subprocess
import sys

import pytest
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

pytest.importorskip("sklearn")

EXAMPLES = ROOT / "examples"


def test_the_demo_reads_well_in_a_pipe(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        cwd=tmp_path,
        env=clean_env(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    without, patched, rates = re.split(r"^[23]\. .*\n", done.stdout, flags=re.M)
    # One worker's error, and what became of the script: a line each.
    _, error, status = without.splitlines()
    assert re.fullmatch(r"   \w*(Error|Exception): [^:]+", error), error
    assert status == "   exit status 1"
    assert re.findall(r"^Epoch (\d+) of 15: accuracy \d", patched, re.M) == ["5", "10", "15"]
    assert len(re.findall(r"^Rate [\d.]+: accuracy \d", rates, re.M)) == 3
    assert "\r" not in done.stdout
    named = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, named)) < 130  # wandb's own longest has 126


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this platform has no terminals to try")
def test_in_a_terminal_there_is_a_bar(tmp_path):
    import fcntl
    import termios

    ours, theirs = os.openpty()
    # In one that says that it is 0 columns wide, tqdm draws nothing.
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "train_ddp.py"), "--epochs", "2", "--workers", "1"],
        cwd=tmp_path,
        env=clean_env(TERM="xterm", OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # Linux's way to say that nobody writes any more
        pass
    finally:
        os.close(ours)
        process.wait(HANG_SECONDS)
    text = seen.decode("utf-8", "replace")
    assert process.returncode == 0, text
    assert "training:" in text and "2/2" in text and "Epoch" not in text
