"""What workers log is in the run's file, however they end."""

import sys
from pathlib import Path

import logging_workers
import pytest
from rows import column, read_rows
from scripts import WORKER_ENV

from wandb_ddp_patch import runfile


@pytest.fixture
def workers(run_prepared, tmp_path):
    """Run the workers; return what was printed, the rows, and those of each worker."""

    def workers(python, *arguments, count=4):
        script = logging_workers.__file__
        done = run_prepared(script, *arguments, count, python=python, env=WORKER_ENV)
        print(done.stderr)  # what a worker says that ends before its time
        rows = read_rows(tmp_path)
        return done.stdout.splitlines(), rows, [column(rows, f"worker {n}") for n in range(count)]

    return workers


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("first", [0, 3])
def test_rows_arrive_in_order_however_workers_end(workers, method, first):
    out, rows, per_worker = workers(sys.executable, method, 50, f"mixed {first}", count=3)
    endings = logging_workers.ENDINGS[first : first + 3]
    assert out == [str([{"exit": 3, "raise": 1}.get(ending, 0) for ending in endings])]
    assert per_worker == [list(range(50))] * 3
    assert sum("owner" in row for row in rows) == 1  # the run went on for its owner


@pytest.mark.parametrize("version", ["0.12.21", "0.13.11", "0.17.9", "0.21.4"])
def test_rows_arrive_on_other_releases(workers, release, version):
    _, rows, per_worker = workers(release(version), "fork", 50, "mixed 2")
    assert per_worker == [list(range(50))] * 4
    assert sum("owner" in row for row in rows) == 1


@pytest.mark.parametrize("ending", ["return", "run.finish"])
def test_bursts_arrive(workers, ending):
    _, _, per_worker = workers(sys.executable, "fork", 2000, ending)
    assert [len(rows) for rows in per_worker] == [2000] * 4


@pytest.mark.parametrize("ending", ["return", "run.finish"])
def test_bursts_arrive_through_the_relay(workers, release, ending):
    _, _, per_worker = workers(release("0.12.21"), "fork", 2000, ending)
    assert per_worker == [list(range(2000))] * 4


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("when", ["never attached", "attached"])
def test_when_the_owner_has_finished_workers_are_told_at_once(workers, method, when):
    out, _, _ = workers(sys.executable, method, 0, f"owner finishes, {when}", count=2)
    assert out == [str([(True, True)] * 2), "[0, 0]"]


def test_a_file_that_is_none_or_is_damaged(workers, tmp_path):
    # Long enough for several blocks of the format.
    _, rows, _ = workers(sys.executable, "fork", 200, "return")
    (file,) = runfile.find(str(tmp_path))
    assert runfile.exit_code(file) == 0
    content = Path(file).read_bytes()
    assert len(content) > 2 * 32768
    (tmp_path / "cut").write_bytes(content[:-3])
    assert runfile.history(str(tmp_path / "cut")) == rows
    (tmp_path / "damaged").write_bytes(content.replace(b"worker 0", b"worker 9", 1))
    with pytest.raises(runfile.BrokenFile, match="damaged at byte"):
        runfile.history(str(tmp_path / "damaged"))
    (tmp_path / "none").write_bytes(b"something else")
    with pytest.raises(runfile.BrokenFile, match=r"is no \.wandb file"):
        runfile.history(str(tmp_path / "none"))
