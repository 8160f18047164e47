"""Many workers attach at once to a service that is busy, or has a short line before its door."""

import subprocess
import sys

import attach_workers
import pytest
from conftest import clean_env

from wandb_ddp_patch import runfile

# A network namespace has a limit of its own for the line of those that connect.
SHORT_LINE = ["unshare", "-n", "sh", "-c", 'sysctl -qw net.core.somaxconn=16 && exec "$@"', "sh"]


def can_unshare():
    try:
        return subprocess.run([*SHORT_LINE, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(
    not can_unshare(), reason="needs a network namespace with a sysctl: Linux, root"
)
def test_each_of_many_workers_gets_in(tmp_path):
    workers = 32
    script = [sys.executable, attach_workers.__file__, "fork", str(workers), "3"]
    with open(tmp_path / "output", "w") as output:
        subprocess.run(
            [*SHORT_LINE, *script],
            cwd=tmp_path,
            env=clean_env(WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
    assert (tmp_path / "codes").read_text() == str({0: workers}), (tmp_path / "output").read_text()
    (file,) = runfile.find(str(tmp_path))
    rows = [key for row in runfile.history(file) for key in row if key.startswith("worker")]
    assert len(rows) == workers * attach_workers.ROWS
