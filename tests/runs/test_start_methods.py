"""Every start method times every way in which things reach a worker."""

import concurrent.futures
import functools
import multiprocessing
import os
import pickle
import sys

import cloudpickle
import dill
import joblib
import pytest
import start_method_workers as workers
import wandb
from limits import HANG_SECONDS

from wandb_ddp_patch.runs import liveness, state

METHODS = [
    m for m in ("spawn", "forkserver", "fork") if m in multiprocessing.get_all_start_methods()
]
# Those of a method on one worker of xdist, which has one forkserver for them.
EACH = pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.xdist_group(f"start by {m}")) for m in METHODS]
)
CONFIG = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}}


@pytest.fixture(scope="module", autouse=True)
def imported_by_the_forkserver():
    """Else each of its workers would import it, as spawned ones do."""
    multiprocessing.set_forkserver_preload(["wandb", "wandb_ddp_patch", "torch"])
    yield
    multiprocessing.set_forkserver_preload(["__main__"])


@pytest.fixture
def things(run):
    run.summary["x"] = 7
    return wandb.config, run, run.summary, run.log, functools.partial(wandb.log).func


@pytest.fixture
def expected(run):
    return {
        "config": CONFIG,
        "run": (run.id, "name", "project", "group", CONFIG),
        "same": True,
        "summary": 7,
    }


@EACH
def test_process_argument(things, expected, method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=workers.put_after_logging, args=(queue, things))
    process.start()
    assert queue.get(timeout=HANG_SECONDS) == {**expected, "logged": 1}
    process.join(HANG_SECONDS)
    assert process.exitcode == 0


@EACH
def test_queue(things, expected, method):
    context = multiprocessing.get_context(method)
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=workers.get_and_put, args=(inbox, outbox))
    process.start()
    inbox.put(things)
    assert outbox.get(timeout=HANG_SECONDS) == expected
    process.join(HANG_SECONDS)
    assert process.exitcode == 0


@EACH
def test_pool(things, expected, method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(workers.look_and_log, [things] * 3) == [{**expected, "logged": 1}] * 3


@EACH
def test_process_pool_executor(things, expected, method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert pool.submit(workers.look_and_log, things).result() == {
            **expected,
            "logged": 1,
        }


@EACH
def test_an_error_in_a_worker_stays_the_workers_error(things, method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(workers.raises, things)
    with pytest.raises(ValueError, match="as asked"):
        future.result()


@EACH
def test_torch_start_processes(things, expected, method):
    import torch_workers  # late: it imports torch, which the other tests don't need

    queue = multiprocessing.get_context(method).SimpleQueue()
    torch_workers.torch.multiprocessing.start_processes(
        torch_workers.torch_worker, args=(queue, things), nprocs=2, start_method=method
    )
    assert [queue.get(), queue.get()] == [expected] * 2


@EACH
def test_dataloader_worker(things, expected, method):
    import torch_workers  # late, as above

    loader = torch_workers.torch.utils.data.DataLoader(
        torch_workers.Dataset(things),
        num_workers=1,
        multiprocessing_context=method,
        collate_fn=torch_workers.first,
    )
    assert list(loader) == [expected] * 2


def test_loky(things, expected):
    parallel = joblib.Parallel(n_jobs=2, backend="loky")
    assert parallel(joblib.delayed(workers.look)(things) for _ in range(2)) == [expected] * 2


@pytest.mark.parametrize("pickler", [cloudpickle, dill], ids=["cloudpickle", "dill"])
def test_other_picklers(things, expected, pickler, forked, tmp_path):
    assert pickler.loads(pickler.dumps(things))[1] is things[1]
    (tmp_path / "data").write_bytes(pickler.dumps(things))
    code = f"""
    import pickle, sys
    sys.path.insert(0, {str(workers.__file__.rpartition("/")[0])!r})
    import start_method_workers as workers
    print(workers.look_and_log(pickle.load(open("data", "rb"))))
    """
    # The environment that a worker inherits.
    out = forked(code, quiet=False, WANDB_SERVICE=os.environ["WANDB_SERVICE"])
    assert eval(out.splitlines()[-1]) == {**expected, "logged": 1}


@EACH
def test_a_worker_gives_the_run_back(run, method):
    """In the process that owns it, it is the same object again."""
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(workers.give_back, run).result() is run


def test_two_payloads_are_one_run_in_a_worker(forked, run, tmp_path):
    (tmp_path / "two").write_bytes(pickle.dumps((pickle.dumps(run), pickle.dumps(run.log))))
    out = forked("""
        import pickle
        one, two = map(pickle.loads, pickle.load(open("two", "rb")))
        print(one is two.__self__, one is pickle.loads(pickle.dumps(one)))
    """)
    assert out == "True True\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no other start method there")
def test_the_environment_may_be_older_than_the_run(forked):
    """A pool and a forkserver that were started before wandb.init()."""
    out = forked(
        """
        import multiprocessing, wandb, wandb_ddp_patch, sys
        def log(run):
            run.log({"x": 1})
            return run.summary["x"], dict(run.config)["lr"]
        if __name__ == "__main__":
            for method in ("forkserver", "spawn"):
                pool = multiprocessing.get_context(method).Pool(1)
                pool.apply(len, ((),))
                run = wandb.init(mode="offline", project="p", config={"lr": 1})
                print(pool.apply(log, (run,)))
                pool.terminate()
                run.finish()
        """,
        quiet=False,
    )
    assert out == "(1, 1)\n(1, 1)\n"


def test_a_worker_sees_at_once_that_the_run_is_over(run):
    pickle.dumps(run)  # from now on workers may have it
    owned = state.get_state(run)
    watch = liveness.OwnerWatch(owned.owner_file, owned.key)
    assert not watch.is_finished()
    # Right after the owner's lock was seen: what was seen is still taken for granted.
    liveness.mark_finished(owned.key)
    assert watch.is_finished()


def test_a_worker_sees_soon_that_the_owner_was_killed(fresh):
    out = fresh("""
        import multiprocessing, time
        from wandb_ddp_patch.runs import liveness

        def own(pipe):
            pipe.send(liveness.ensure_owner_file())
            time.sleep(600)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            pipe, its_pipe = context.Pipe()
            owner = context.Process(target=own, args=(its_pipe,))
            owner.start()
            watch = liveness.OwnerWatch(pipe.recv(), "some run")
            print(watch.is_finished())
            owner.kill()
            owner.join()
            time.sleep(2 * liveness.CACHE_SECONDS)
            print(watch.is_finished())
    """)
    assert out == "False\nTrue\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_of_who_has_pickled_a_run_ends_without_its_service(forked):
    forked(  # which sees that nothing is said
        """
        import os, pickle, sys, wandb, wandb_ddp_patch

        run = wandb.init(mode="offline")
        pickle.dumps(run)  # as for a spawned worker, before the first fork
        if os.fork() == 0:
            run.log({"x": 1})
            sys.exit()
        os.wait()
        run.log({"x": 2})
        run.finish()
        """,
        WANDB_SILENT="true",
    )
