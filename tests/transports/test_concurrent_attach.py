"""Many workers attach at once to a service that is busy, or lets few of them wait."""

import subprocess

import attach_workers
import pytest
from rows import read_rows
from scripts import WORKER_ENV

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
def test_each_of_many_workers_gets_in(run_script, tmp_path):
    workers = 32
    script = attach_workers.__file__
    done = run_script(
        script,
        *("fork", workers, 3),
        before=SHORT_LINE,
        env=WORKER_ENV,
        returncode=None,
        stderr=subprocess.STDOUT,
    )
    assert (tmp_path / "codes").read_text() == str({0: workers}), done.stdout
    rows = [key for row in read_rows(tmp_path) for key in row if key.startswith("worker")]
    assert len(rows) == workers * attach_workers.ROWS
