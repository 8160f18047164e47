"""What goes wrong, or is rare: killed workers, a killed owner, many, nested, idle ones."""

import functools
import os
import time

import faulty_workers
import pytest
from limits import AT_ONCE_SECONDS, SOON_SECONDS
from processes import alive
from rows import read_values

# The newest release, one that drops rows without a word, and one with a relay.
WHERE = [
    (None, "spawn"),
    (None, "fork"),
    ("0.21.4", "fork"),
    ("0.12.21", "fork"),
]
where = pytest.mark.parametrize(("version", "method"), WHERE)


@pytest.fixture
def case(run_case):
    return functools.partial(run_case, faulty_workers.__file__)


ALL = list(range(faulty_workers.ROWS))


@where
def test_a_worker_is_killed_while_it_logs(case, tmp_path, version, method):
    assert case(version, method, "killed")[-1] == "[-9, 0, 0]"
    rows = read_values(tmp_path)
    assert rows["killed"][: len(ALL)] == ALL
    assert rows["worker 0"] == rows["worker 1"] == ALL


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells how many are open")
@where
def test_a_worker_that_may_open_no_more_files_is_told_so(case, tmp_path, version, method):
    assert case(version, method, "few_descriptors") == ["True True"] * 4 + ["[0]"]
    assert read_values(tmp_path)["worker 0"] == ALL


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells which is the service")
@pytest.mark.parametrize(("version", "method"), [(None, "spawn"), ("0.16.6", "fork")])
def test_a_service_that_stands_still_when_a_worker_ends(case, tmp_path, version, method):
    said = case(version, method, "frozen_service")
    assert said == [
        "W&B's service has not confirmed within 2 s that it has them. They will still arrive if it"
        " continues"
        " before the run is finished.",
        "[0]",
    ]
    assert read_values(tmp_path)["worker 0"] == ALL


@pytest.mark.parametrize(("version", "method"), [(None, "spawn"), ("0.16.6", "fork")])
def test_a_worker_is_interrupted_while_it_waits_for_the_service(case, tmp_path, version, method):
    assert case(version, method, "interrupted") == [
        "this worker was interrupted while it waited until they had arrived.",
        "interrupted",
        "[0]",
    ]
    assert read_values(tmp_path)["worker 0"] == ALL


@where
def test_the_owner_finishes_while_they_log(case, version, method):
    out = case(version, method, "finished")
    assert out == ["True True"] * 2 + ["finish True", "[0, 0]"]


@where
def test_the_owner_is_killed_while_they_log(case, tmp_path, version, method):
    case(version, method, "orphans", returncode=-9)
    told_when_killed(tmp_path, [f"worker {n}" for n in range(2)])


def told_when_killed(folder, names):
    """What workers wrote down of an owner that was killed, once they have ended."""
    killed = float((folder / "killed").read_text())
    files = [folder / name for name in names]
    pids = [int(file.read_text().split()[0]) for file in files]
    while any(map(alive, pids)) and time.time() < killed + SOON_SECONDS:
        time.sleep(0.1)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, 9)
    assert not left
    for file in files:
        _, right, at = file.read_text().split()
        assert (right, float(at) - killed < AT_ONCE_SECONDS) == ("True", True)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells which is the service")
@pytest.mark.parametrize(("version", "method"), [(None, "spawn"), ("0.16.6", "fork")])
def test_the_service_is_killed_while_they_log(case, tmp_path, version, method):
    # The owner's own finish() would wait for it.
    assert case(version, method, "service_killed", returncode=-9) == ["True", "[0]"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells which is the service")
@pytest.mark.parametrize(("version", "method"), [(None, "spawn"), ("0.16.6", "fork")])
def test_the_service_ends_a_moment_before_the_owner(case, tmp_path, version, method):
    case(version, method, "service_killed_first", returncode=-9)
    told_when_killed(tmp_path, ["worker 0"])


@where
def test_two_runs_in_one_process(case, tmp_path, version, method):
    # Up to 0.19 a process has one run at a time.
    case(version, method, "two_runs_in_turn" if version == "0.12.21" else "two_runs")
    again = list(range(2 * len(ALL)))
    assert read_values(tmp_path) == {
        "worker 0": ALL,
        "worker 1": ALL,
        "worker 0, again": again,
        "worker 1, again": again,
    }


@where
def test_workers_of_workers(case, tmp_path, version, method):
    assert case(version, method, "nested") == ["[0, 0]"] * 3
    names = [f"worker {n}{m}" for n in range(2) for m in ("", ".0", ".1")]
    assert read_values(tmp_path) == dict.fromkeys(names, ALL)


@pytest.mark.parametrize("version", [None, "0.21.4", "0.19.11", "0.16.6", "0.13.11", "0.12.21"])
def test_what_a_fork_collects_is_not_its_parents(case, tmp_path, version):
    last = str(ALL[-1])
    assert case(version, "fork", "collecting") == ["[0]", last, "[0]", last]
    assert read_values(tmp_path) == dict.fromkeys(["owner", "outer", "inner", "forked"], ALL)


@pytest.mark.parametrize(
    ("version", "method"), [(None, "forkserver"), (None, "fork"), ("0.12.21", "fork")]
)
def test_sixteen_workers(case, tmp_path, version, method):
    assert case(version, method, "sixteen")[-1] == str([0] * 16)
    assert read_values(tmp_path) == {f"worker {n}": ALL for n in range(16)}


@pytest.mark.parametrize("version", [None, "0.16.6", "0.12.21"])
def test_a_pool_uses_run_after_run(case, tmp_path, version):
    assert case(version, "spawn", "pool")[-1] == "True"
    assert read_values(tmp_path) == {f"task {n}.{m}": ALL for n in range(4) for m in range(2)}


@pytest.mark.parametrize("version", [None, "0.21.4"])
def test_a_worker_forks_while_its_threads_attach(case, tmp_path, version):
    assert case(version, "spawn", "fork_while_attaching")[-2:] == [str([0] * 8), "[0]"]
    names = [*(f"thread {n}" for n in range(3)), *(f"worker {n}" for n in range(8))]
    assert read_values(tmp_path) == dict.fromkeys(names, ALL)


@pytest.mark.parametrize("version", [None, "0.21.4"])
def test_a_worker_is_forked_while_another_thread_holds_wandbs_locks(case, tmp_path, version):
    assert case(version, "fork", "locks_held") == ["[0]", "True", "[0]"]
    assert read_values(tmp_path)["worker 0"] == ALL


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux for its sockets")
@where
def test_a_worker_that_never_uses_its_run_connects_to_nothing(case, version, method):
    assert case(version, method, "unused") == ["True [] 1", "[0]"]


@where
def test_what_workers_print_is_not_doubled(case, tmp_path, version, method):
    case(version, method, "console")
    out = (tmp_path / "output").read_text().splitlines()
    said = [f"{what} {n}" for what in ("after", "before", "error") for n in range(2)]
    assert sorted(line for line in out if line[:1] in ("a", "b", "e")) == said
