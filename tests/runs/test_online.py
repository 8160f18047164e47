"""Runs in online mode: what workers log is with the server, also when that has trouble.

The server is a stand-in of ours on this machine, see backend/.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time

import logging_workers
import online_workers
import prepared
import pytest
from backend import KEY, Backend
from conftest import clean_env
from limits import HANG_SECONDS

SCRIPT = online_workers.__file__
NEWEST = "newest"
RELEASES = [NEWEST, "0.21.4", "0.16.6", "0.12.21"]
METHODS = ["spawn", "forkserver", "fork"]


@pytest.fixture
def backend():
    with Backend() as backend:
        yield backend
        assert backend.state.unknown == []  # else what wandb does may not be what it does


@pytest.fixture
def python(release):
    return lambda version: sys.executable if version == NEWEST else release(version)


@pytest.fixture
def act(backend, tmp_path):
    """Start a scene of online_workers.py; give what it printed.

    What it prints while it waits is looked up in ``at``, and called.
    """

    def act(python, *arguments, at=None, code=0, **env):
        errors = tmp_path / "errors"
        with errors.open("a") as stderr:
            is_wandbs = arguments[0] == "-m"
            start = subprocess.Popen if is_wandbs else prepared.Popen
            process = start(
                [python, *([] if is_wandbs else [SCRIPT]), *map(str, arguments)],
                cwd=tmp_path,
                env=environment(backend, **env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                start_new_session=True,
            )
        lines = []
        for line in output(process):
            lines.append(line.strip())
            if at and lines[-1] in at:
                at[lines[-1]]()
                process.stdin.write("\n")
                process.stdin.flush()
        process.stdin.close()
        print(errors.read_text())  # what a worker says that ends before its time
        assert process.returncode == code, "\n".join(lines) + errors.read_text()
        return lines

    return act


def output(process):
    """Give what a process prints until it ends, or hangs: then it is killed.

    By a thread, because what it leaves behind, workers or a service, has its output too.
    """
    lines = queue.Queue()
    threading.Thread(
        target=lambda: [lines.put(line) for line in process.stdout], daemon=True
    ).start()
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        ended = process.poll() is not None
        try:
            yield lines.get(timeout=0.5)
        except queue.Empty:
            if ended:
                return
            if time.monotonic() > deadline:
                os.killpg(process.pid, 9)


def environment(backend, **env):
    env.setdefault("WANDB_DDP_PATCH", os.environ.get("WANDB_DDP_PATCH"))
    return clean_env(**{**backend.environment, "PYTHONWARNINGS": "ignore", **env})


def whole(run, rows):
    """Say whether the server has the rows of all workers, in order, and each once."""
    got = [run.values(f"worker {n}") for n in range(logging_workers.WORKERS)]
    assert [len(values) for values in got] == [rows] * logging_workers.WORKERS
    assert (run.missing, run.overwritten) == ([], [])
    assert all(values == list(range(rows)) for values in got)
    assert set(run.keys) == {KEY}
    return True


def exit_codes(first):
    endings = (logging_workers.ENDINGS * 2)[first : first + 4]
    return str([{"exit": 3, "raise": 1}.get(ending, 0) for ending in endings])


# --- rows -------------------------------------------------------------------

ROWS = [(NEWEST, "spawn", 0), (NEWEST, "forkserver", 1), (NEWEST, "fork", 2)]
ROWS += [("0.21.4", "spawn", 2), ("0.16.6", "fork", 2), ("0.12.21", "fork", 1)]


@pytest.mark.parametrize(("version", "method", "first"), ROWS)
def test_rows_arrive_however_workers_end(backend, python, act, version, method, first):
    assert act(python(version), "rows", method, 25, f"mixed {first}") == [exit_codes(first)]
    (run,) = backend.runs()
    assert whole(run, 25)
    assert run.values("owner") == [1]
    assert run.config == online_workers.CONFIG
    assert run.summary["worker 3"] == 24
    assert run.exit_code == 0


@pytest.mark.nightly
@pytest.mark.parametrize("ending", logging_workers.ENDINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", RELEASES)
def test_rows_arrive_by_every_way_out(backend, python, act, version, method, ending):
    act(python(version), "rows", method, 50, ending)
    (run,) = backend.runs()
    assert whole(run, 50)
    assert run.exit_code == 0


@pytest.mark.parametrize("version", [NEWEST, "0.21.4"])
def test_bursts_arrive(backend, python, act, version):
    act(python(version), "rows", "fork", 2000, "return")
    (run,) = backend.runs()
    assert sorted(len(run.values(f"worker {n}")) for n in range(4)) == [2000] * 4
    assert (run.missing, run.overwritten) == ([], [])


# --- what else runs are for -------------------------------------------------


@pytest.mark.parametrize(
    ("version", "method"),
    [(NEWEST, "fork"), ("0.21.4", "fork"), ("0.16.6", "fork"), ("0.12.21", "fork")],
)
def test_workers_read_and_write_the_config_and_the_summary(backend, python, act, version, method):
    assert act(python(version), "facts", method) == ["[0, 0, 0, 0]"]
    (run,) = backend.runs()
    assert {n: run.summary.get(f"best {n}") for n in range(4)} == {n: n for n in range(4)}
    theirs = {f"of {n}": n for n in range(4)}
    assert run.config == {**online_workers.CONFIG, **theirs, "late": True}


@pytest.mark.parametrize("version", RELEASES)
def test_runs_are_resumed_replaced_and_fail(backend, python, act, version):
    act(python(version), "lives", "fork", code=1)
    first, second, third = backend.runs()
    assert [run.name for run in backend.runs()] == ["first", "second", "third"]
    assert [first.values(f"worker {n}") for n in range(4)] == [[*range(5), *range(5)]] * 4
    assert (first.missing, first.overwritten) == ([], [])
    assert whole(second, 5)
    assert whole(third, 5)
    assert [run.exit_code for run in backend.runs()] == [0, 0, 1]


@pytest.mark.parametrize(("version", "method"), [(NEWEST, "fork"), ("0.21.4", "spawn")])
def test_workers_log_to_two_runs_at_once(backend, python, act, version, method):
    assert act(python(version), "two", method) == ["[0, 0, 0, 0]"]
    one, other = backend.runs()
    assert whole(one, 5)
    assert whole(other, 5)
    assert (len(one.values("other")), len(other.values("other"))) == (0, 20)


@pytest.mark.parametrize("version", RELEASES)
def test_no_key_is_in_a_payload(backend, python, act, version):
    payloads = [json.loads(line) for line in act(python(version), "payloads")]
    assert len(payloads) == 18
    assert [name for name, payload in payloads if KEY in payload] == []


def test_an_agents_function_may_spawn(backend, python, act):
    pytest.importorskip("torch")
    act(python(NEWEST), "sweep")
    runs = backend.runs()
    assert [run.config for run in runs] == [{"lr": 1}, {"lr": 2}]
    for run in runs:
        assert [run.values(f"worker {n}") for n in range(2)] == [list(range(5))] * 2
        assert run.values("lr used") == [run.config["lr"]] * 10
        assert (run.exit_code, run.missing, run.overwritten) == (0, [], [])


@pytest.mark.parametrize("version", RELEASES)
def test_what_workers_logged_offline_can_be_synchronised(backend, python, act, tmp_path, version):
    assert act(python(version), "offline", "fork", WANDB_MODE="offline") == ["[0, 0, 0, 0]"]
    assert backend.runs() == []
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    act(python(version), "-m", "wandb", "sync", folder)
    (run,) = backend.runs()
    assert run.name == "later"
    assert whole(run, 5)
    assert run.config == online_workers.CONFIG


def test_shared_mode_is_as_without_the_patch(backend, run_script):
    seen = []
    for patched in ("0", "1"):
        for label in ("0", "1"):
            env = environment(backend, WANDB_DDP_PATCH=patched)
            run_script(SCRIPT, "shared", label, env=env)
        (run,) = backend.runs()
        seen.append((run.rows, run.exit_code, run.config))
        backend.state.runs.clear()
    for rows, _, _ in seen:
        for row in rows:
            for changing in ("_timestamp", "_runtime"):
                row.pop(changing, None)
    assert seen[0] == seen[1]
    assert seen[0][0] != []


# --- a server that has trouble ----------------------------------------------


class Trouble:
    """What the server has, from the moment when workers start to log."""

    def __init__(self, backend, seconds, **faults):
        self.backend, self.seconds, self.faults = backend, seconds, faults
        self.over = threading.Event()

    def begin(self):
        if not self.faults:
            self.backend.go_away()
        vars(self.backend.faults).update(self.faults)
        threading.Timer(self.seconds, self.end).start()

    def end(self):
        vars(self.backend.faults).update(delay=0, frozen=False, status=None)
        if not self.faults:
            self.backend.come_back()
        self.over.set()


def in_trouble(
    backend, act, python, trouble, method="fork", rows=2000, ending="return", at="begun"
):
    nothing = {"begun": bool, "ended": bool}
    with contextlib.ExitStack() as stack:
        stack.callback(trouble.over.wait, trouble.seconds + 10)
        act(python, "trouble", method, rows, ending, at={**nothing, at: trouble.begin})
    (run,) = backend.runs()
    assert [len(run.values(f"worker {n}")) for n in range(4)] == [rows] * 4
    assert (run.missing, run.overwritten) == ([], [])
    assert run.values("owner") == [1]
    assert run.exit_code == 0


TROUBLE = [{"delay": 1}, {"status": 429}, {"status": 500}, {"frozen": True}, {}]
NAMES = ["slow", "429", "500", "frozen", "away"]


@pytest.mark.parametrize("faults", TROUBLE, ids=NAMES)
def test_rows_arrive_at_a_server_in_trouble(backend, python, act, faults):
    trouble = Trouble(backend, 3, **faults)
    in_trouble(backend, act, python("0.21.4"), trouble)
    if "status" in faults:
        assert backend.faults.count


@pytest.mark.nightly
@pytest.mark.parametrize("faults", TROUBLE, ids=NAMES)
@pytest.mark.parametrize("version", RELEASES)
def test_rows_arrive_at_a_server_in_longer_trouble(backend, python, act, version, faults):
    trouble = Trouble(backend, 15, **faults)
    in_trouble(backend, act, python(version), trouble, rows=1000)


# Nothing needs the server for a row to be with the service.
@pytest.mark.nightly
@pytest.mark.parametrize("at", ["begun", "ended"])
@pytest.mark.parametrize("faults", [{}, {"frozen": True}], ids=["away", "frozen"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", [NEWEST, "0.21.4"])
def test_rows_arrive_at_a_server_that_is_away_for_a_minute(
    backend, python, act, version, method, faults, at
):
    trouble = Trouble(backend, 60, **faults)
    in_trouble(backend, act, python(version), trouble, method, at=at)
