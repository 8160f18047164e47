"""Runs and summaries: identity, what a payload holds, what a worker may do."""

import copy
import gc
import os
import pickle

import pytest
import wandb
from limits import AT_ONCE_SECONDS

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.runs import state

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def in_later_session(fresh, tmp_path, what, code, **env):
    (tmp_path / "data").write_bytes(pickle.dumps(what))
    top = f"import pickle\nAT_ONCE_SECONDS = {AT_ONCE_SECONDS}\n"
    top += "it = pickle.load(open('data', 'rb'))\n"
    return fresh(top + code, **env)


def test_a_run_comes_back_as_itself_finished_or_not(run):
    payloads = [pickle.dumps(run, protocol) for protocol in PROTOCOLS]
    assert all(pickle.loads(payload) is run for payload in payloads)
    assert copy.copy(run) is copy.deepcopy(run) is run
    assert copy.deepcopy({"run": [run, run.log]})["run"][1].__self__ is run
    run.finish()
    assert all(pickle.loads(payload) is run for payload in payloads)
    assert pickle.loads(pickle.dumps(run)) is run


def test_of_several_runs_each_comes_back_as_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [wandb.init(project="p", reinit="create_new") for _ in range(3)]
    assert [pickle.loads(pickle.dumps(run)) for run in runs] == runs
    for run in runs:
        run.finish()
    assert [pickle.loads(pickle.dumps(run)) for run in runs] == runs


def test_a_run_is_not_kept_alive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = wandb.init(project="p", config={"lr": 1})
    run_id, data, key = run.id, pickle.dumps(run), state.ensure_owner_state(run).key
    run.finish()
    del run
    gc.collect()
    if state.lookup(key) is None:  # wandb, too, has let it go
        again = pickle.loads(data)
        assert (again.id, dict(again.config)["lr"]) == (run_id, 1)
        with pytest.raises(wandb.errors.UsageError, match="no longer has it"):
            again.log({"x": 1})


def test_no_setting_is_in_a_payload_but_the_names_of_the_run(fresh):
    """A secret in every string that settings or the environment can hold."""
    out = fresh(
        """
        import os, pickle
        os.environ.update(WANDB_API_KEY="c0ffee" * 6 + "beef", WANDB_USERNAME="secret-user",
                          WANDB_USER_EMAIL="secret-mail", MY_TOKEN="secret-token",
                          WANDB_NOTES="secret-notes", WANDB_TAGS="secret-tag",
                          WANDB_JOB_TYPE="secret-job", WANDB_HOST="secret-host")
        import wandb_ddp_patch, wandb
        run = wandb.init(
            mode="offline", project="project", group="group", name="name",
            settings=wandb.Settings(
                x_extra_http_headers={"Authorization": "secret-header"},
                https_proxy="http://user:secret-proxy@localhost",
            ))
        run.log({"x": 1})
        run.summary["y"] = {"z": 1}
        things = {"run": run, "config": run.config, "summary": run.summary,
                  "sub": run.summary["y"], "log": run.log, "global": wandb.log}
        for name, thing in things.items():
            for protocol in range(6):
                data = pickle.dumps(thing, protocol)
                for word in (b"c0ffee", b"secret", b"settings"):
                    assert word not in data, (name, word, data)
        print(run._settings.x_extra_http_headers["Authorization"])
        run.finish()
        """,
        quiet=False,
    )
    assert out == "secret-header\n"


def test_reading_needs_no_service_and_writing_says_why(fresh, tmp_path, run):
    run.finish()
    out = in_later_session(
        fresh,
        tmp_path,
        {"run": run, "log": run.log},
        """
import os, sys, threading, time, wandb
run = it["run"]
print(run.name, run.project, run.group, run.url, run.entity == "", run.config.lr, run.disabled)
print("WANDB_SERVICE" in os.environ, threading.active_count(), wandb.run)
begun = time.monotonic()
run.config.lr
for call in (lambda: it["log"]({"x": 1}), lambda: run.log({"x": 1}), lambda: run.tags,
             lambda: run.summary.update({"x": 1}), lambda: run.config.update({"new": 1}),
             lambda: setattr(run, "name", "other"), lambda: run.define_metric("x")):
    try: call()
    except wandb.errors.UsageError as error: print(run.id in str(error), "finished" in str(error))
run.finish()
with run: pass
print(time.monotonic() - begun < AT_ONCE_SECONDS)
""",
    )
    assert out.splitlines() == [
        "name project group None True 0.1 False",
        "False 1 None",
        *["True True"] * 7,
        "True",
    ]


def test_a_stale_service_in_the_environment_is_no_service(forked, tmp_path, run):
    stale = os.environ["WANDB_SERVICE"]
    out = in_later_session(
        forked,
        tmp_path,
        run,
        """
import time, wandb, sys
sys.modules["wandb_ddp_patch.runs.state"].get_state(it).transport.service += "gone"
begun = time.monotonic()
try: it.log({"x": 1})
except wandb.errors.UsageError as error: print("service can't be reached" in str(error))
print(time.monotonic() - begun < AT_ONCE_SECONDS, it.name)
""",
        WANDB_SERVICE=stale,
    )
    assert out == "True\nTrue name\n"


def test_threads_of_a_worker_attach_once(forked, tmp_path, run):
    out = in_later_session(
        forked,
        tmp_path,
        run,
        """
import threading, wandb
calls, attach = [], wandb._attach
wandb._attach = lambda **kwargs: (calls.append(1), attach(**kwargs))[1]
barrier = threading.Barrier(4)
def log(n):
    barrier.wait()
    it.log({f"x{n}": n})
threads = [threading.Thread(target=log, args=(n,)) for n in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(len(calls), sorted(k for k in dict(it.summary._as_dict()) if k[0] == "x"))
""",
    )
    assert out == "1 ['x0', 'x1', 'x2', 'x3']\n"


def test_a_worker_that_was_stopped_while_it_attached_tries_again(forked, tmp_path, run):
    out = in_later_session(
        forked,
        tmp_path,
        run,
        """
import time, wandb
real, attach, failures = time.monotonic, wandb._attach, []
def attach_after_a_stop(**kwargs):
    if not failures:
        failures.append(ConnectionError("no answer for an hour"))
        time.monotonic = lambda: real() + 3600  # as after SIGSTOP and SIGCONT
        raise failures[0]
    return attach(**kwargs)
wandb._attach = attach_after_a_stop
it.log({"x": 1})
print(len(failures), it.summary["x"])
""",
    )
    assert out == "1 1\n"


def test_changes_in_a_worker_reach_the_run(forked, tmp_path, run):
    out = in_later_session(
        forked,
        tmp_path,
        (run, run.summary),
        """
run, summary = it
run.config.update({"from worker": 1})
run.config["item"] = 2
summary["best"] = {"loss": 0.5}
run.name = "renamed"
print(run.name, dict(run.summary["best"]._as_dict()), run.config["item"])
""",
    )
    assert out == "renamed {'loss': 0.5} 2\n"
    assert dict(run.summary["best"]._as_dict()) == {"loss": 0.5}


def test_a_copy_that_is_changed_in_a_worker_says_once_that_it_is_one(forked, run):
    out = forked(
        """
        import multiprocessing, wandb, wandb_ddp_patch
        def change(config):
            len(dict(config)), config.lr, config.get("x")
            print("read", flush=True)
            config.update({"a": 1})
            config["b"] = 2
        if __name__ == "__main__":
            config = wandb.Config()
            config["lr"] = 1
            for method in ("spawn", "forkserver"):
                p = multiprocessing.get_context(method).Process(target=change, args=(config,))
                p.start(); p.join(); assert p.exitcode == 0
            config["in the parent"] = 1
    """,
        quiet=False,
        WANDB_SILENT="false",
    )
    assert out == "read\nread\n"


def test_that_warning_is_seen(forked, tmp_path):
    code = """
    import multiprocessing, wandb, wandb_ddp_patch, pickle, sys
    def change(config):
        config.update({"a": 1})
        config["b"] = 2
    if __name__ == "__main__":
        config = pickle.loads(pickle.dumps(wandb.Config()))
        config["in the parent"] = 1
        context = multiprocessing.get_context("spawn")
        p = context.Process(target=change, args=(config,))
        p.start(); p.join()
        sys.exit(1)
    """
    errors = forked(code, fails=True, WANDB_SILENT="false")
    assert errors.count("stay in the worker") == 1
    assert "run.config" in errors


def test_config_items_set_in_a_fork_reach_the_run(forked):
    out = forked(
        """
        import multiprocessing, wandb, wandb_ddp_patch
        def change(run, queue):
            run.config["a"] = 1
            wandb.config["b"] = 2
            wandb.config.update({"c": 3})
            queue.put((dict(run.config), wandb.config is run.config, run.summary["x"]))
        if __name__ == "__main__":
            run = wandb.init(project="p", config={"lr": 1})
            run.summary["x"] = 1
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            context.Process(target=change, args=(run, queue)).start()
            print(queue.get())
        """,
        quiet=False,
    )
    assert out == "({'lr': 1, 'a': 1, 'b': 2, 'c': 3}, True, 1)\n"


def test_a_finished_run_in_a_fork_is_as_it_is_at_home(forked):
    out = forked(
        f"""
        import os, sys, time, wandb, wandb_ddp_patch
        run = wandb.init(project="p", config={{"lr": 1}})
        run.finish()
        if os.fork() == 0:
            begun = time.monotonic()
            print(run.summary.get("x"), run.config.lr)
            try: run.log({{"x": 1}})
            except wandb.errors.UsageError as error: print("finished" in str(error))
            print(time.monotonic() - begun < {AT_ONCE_SECONDS}, flush=True)
            os._exit(0)
        os.wait()
        """,
        quiet=False,
    )
    assert out == "None 1\nTrue\nTrue\n"


def test_a_failed_attach_leaves_the_process_its_own_service(forked, tmp_path, run):
    out = in_later_session(
        forked,
        tmp_path,
        run,
        """
import os, wandb
mine = wandb.init(project="mine")
before = os.environ["WANDB_SERVICE"]
try: it.log({"x": 1})
except Exception as error: print(type(error).__name__)
print(os.environ["WANDB_SERVICE"] == before)
mine.finish()
""",
        quiet=False,
    )
    assert out.splitlines()[-1] == "True"


def test_a_worker_that_gets_the_run_again_sees_the_config_of_now(forked):
    out = forked(
        """
        import multiprocessing, wandb, wandb_ddp_patch
        def look(run): return dict(run.config), run.name
        if __name__ == "__main__":
            run = wandb.init(project="p", name="one", config={"lr": 1})
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(look, (run,)))
                run.config["phase"] = 2
                run.name = "two"
                print(pool.apply(look, (run,)))
            run.finish()
        """,
        quiet=False,
    )
    assert out == "({'lr': 1}, 'one')\n({'lr': 1, 'phase': 2}, 'two')\n"


# --- summaries --------------------------------------------------------------


def test_a_pickled_summary_is_the_runs(run):
    run.summary["best"] = {"loss": 0.5}
    assert pickle.loads(pickle.dumps(run.summary)) is run.summary
    part = pickle.loads(pickle.dumps(run.summary["best"]))
    part["loss"] = 0.4
    assert run.summary["best"]["loss"] == 0.4


def test_a_summary_can_be_read_when_its_run_is_gone(forked, tmp_path, run):
    run.summary["best"] = {"loss": 0.5}
    (tmp_path / "kept").write_bytes(pickle.dumps((run.summary, run.summary["best"])))
    out = forked("""
        import pickle, sys, wandb
        from wandb_ddp_patch import errors
        from wandb_ddp_patch.transports import service
        def gone(self, run): raise errors.RunUnreachableError("its service is gone")
        service.ServiceTransport.connect = gone
        summary, best = pickle.load(open("kept", "rb"))
        print(summary["best"]["loss"], best["loss"])
        try: best["loss"] = 1
        except wandb.errors.UsageError: print("says so")
    """)
    assert out == "0.5 0.5\nsays so\n"


# --- disabled runs ----------------------------------------------------------


def test_a_disabled_run_elsewhere(forked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = wandb.init(mode="disabled", config={"lr": 1})
    run.log({"x": {"y": 1}, "no data": (n for n in ())})
    assert copy.deepcopy(run) is copy.copy(run) is pickle.loads(pickle.dumps(run)) is run
    out = in_later_session(
        forked,
        tmp_path,
        {"run": run, "log": run.log, "config": run.config},
        """
import wandb
run = it["run"]
print(run.config.lr, it["config"].lr, run.summary["x"]["y"], "no data" in run.summary)
print(run.id, run.name, run.disabled, it["log"].__self__ is run, wandb.run)
it["log"]({"z": 2}); print(run.summary["z"]); run.finish()
mine = wandb.init(mode="offline", project="p")
again = pickle.loads(open("data", "rb").read())["run"]
print(wandb.run is mine, again is run)
mine.finish()
""",
        quiet=False,
    )
    assert out.splitlines() == [
        "1 1 1 False",
        f"{run.id} {run.name} True True None",
        "2",
        "True True",
    ]
    run.finish()
