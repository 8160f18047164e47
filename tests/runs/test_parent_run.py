"""wandb.log() and wandb.config in a worker that was passed nothing: its parent's run."""

import sys

import parent_run_workers
import pytest
from rows import column, read_runs
from scripts import WORKER_ENV

CASES = [
    (None, "process", "spawn"),
    (None, "pool", "forkserver"),
    (None, "loader", "spawn"),
    (None, "multiprocess", "spawn"),
    (None, "secrets", "forkserver"),
    ("0.16.6", "pool", "spawn"),
    ("0.12.21", "process", "spawn"),
]
NIGHTLY = [
    (None, "process", "forkserver"),
    (None, "executor", "spawn"),
    (None, "loky", "spawn"),
    (None, "torch", "spawn"),
    (None, "nested", "spawn"),
    ("0.21.4", "process", "spawn"),
    ("0.10.33", "process", "forkserver"),
]
CASES += [pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY]


@pytest.fixture
def run(run_script, run_prepared, tmp_path):
    """Run the workers; return what they have logged to their parent's run, sorted."""

    def run(python, *args, **env):
        script = parent_run_workers.__file__
        start = run_script if any(env.values()) else run_prepared
        start(script, *args, python=python, env={**WORKER_ENV, **env})
        return sorted(column(read_runs(tmp_path)["theirs"], "worker"))

    return run


@pytest.mark.parametrize(("version", "case", "method"), CASES)
def test_a_worker_that_was_passed_nothing_logs_to_its_parents_run(
    run, release, version, case, method
):
    assert run(release(version), case, method) == list(range(parent_run_workers.WORKERS))


def test_so_do_workers_of_unchanged_scripts_that_the_variable_starts_fast(run):
    rows = run(sys.executable, "torch", "spawn", WANDB_DDP_PATCH_SPAWN="forkserver")
    assert rows == list(range(parent_run_workers.WORKERS))


@pytest.mark.parametrize(
    ("case", "switch"),
    [
        ("refused", None),  # no run yet, and one that is finished
        ("off", "0"),  # wandb alone
        ("own", None),  # a worker that has had a run of its own
    ],
)
def test_where_there_is_none_it_raises_as_ever(run, case, switch):
    assert run(sys.executable, case, "spawn", WANDB_DDP_PATCH=switch) == []


def test_before_init_names_are_looked_for_as_ever(fresh):
    fresh(
        """
        import copy, pickle
        import wandb, wandb_ddp_patch
        wandb_ddp_patch.apply()
        for name in ("config", "summary"):
            stand_in = getattr(wandb, name)
            assert not hasattr(stand_in, "__len__") and bool(stand_in)
            assert copy.copy(stand_in) is stand_in
            for use in (
                lambda: stand_in.x, lambda: stand_in["x"], lambda: list(stand_in),
                lambda: "x" in stand_in, lambda: setattr(stand_in, "x", 1),
            ):
                try:
                    use()
                except wandb.Error as error:
                    assert "You must call wandb.init() before" in str(error)
                else:
                    raise AssertionError(name)
        """
    )
