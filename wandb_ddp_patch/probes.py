"""The catalogue of what breaks: one function for each failure, to be run.

Each probe does what a user does, on the wandb that is installed, in offline
mode and with real processes. It passes where wandb behaves as it should; most
fail without the shim (``WANDB_DDP_PATCH=0``), on all releases unless its
``fails`` says otherwise. ``python -m wandb_ddp_patch.probes NAME`` runs one
here; :func:`run_all` runs them in other processes, with a time limit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import importlib
import json
import multiprocessing
import os
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import wandb_ddp_patch

from . import runfile

API_KEY = "0123456789abcdef" * 2 + "deadbeef"  # the shape of a real one
_MARK = "wandb_ddp_patch verdict: "
_TRACE_LINES = 12


@dataclass(frozen=True)
class Verdict:
    """What one probe found.

    Attributes:
        name: The probe.
        passed: True, False, or None where it can't be run here.
        reason: Why, in a line.
        trace: The traceback's, or the output's, last lines.
        seconds: How long it took.
    """

    name: str
    passed: Optional[bool]
    reason: str
    trace: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Probe:
    """One failure of the catalogue.

    Attributes:
        name: Its name there.
        function: Raises where wandb has the fault.
        what: What a user does, in a line.
        issues: Its upstream issues.
        first: Whether no other may have run before it in its process.
    """

    name: str
    function: Callable[[], None]
    what: str
    issues: Tuple[int, ...]
    first: bool


class CannotRun(Exception):
    """What a probe needs is not installed."""


PROBES: Dict[str, Probe] = {}


def probe(*issues: int, first: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__.replace("_", "-")
        what = (function.__doc__ or "").splitlines()[0]
        PROBES[name] = Probe(name, function, what, issues, first)
        return function

    return register


def check(condition: Any, failure: str) -> None:
    if not condition:
        raise AssertionError(failure)


# --- what probes share ------------------------------------------------------


@contextlib.contextmanager
def offline_run(mode: str = "offline") -> Iterator[Any]:
    """Start a run in a folder of its own, and finish it."""
    import wandb

    os.environ["WANDB_API_KEY"] = API_KEY
    here = os.getcwd()
    os.chdir(tempfile.mkdtemp(dir=_folder().name))
    run: Any = wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project="probe",
        group="group",
        name="name",
        config={"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}},
    )
    try:
        yield run
    finally:
        wandb.finish()
        os.chdir(here)


@functools.lru_cache(maxsize=None)
def _folder() -> tempfile.TemporaryDirectory[str]:
    # Of the process: old services can't go on in a folder that is gone.
    return tempfile.TemporaryDirectory(prefix="wandb_ddp_patch-probes-")


def config_items(config: Any) -> Dict[str, Any]:
    return {key: val for key, val in dict(config).items() if not key.startswith("_")}


ITEMS = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}}


def in_worker(function: Callable[..., Any], *args: Any, method: str = "spawn") -> Any:
    """Call a function in a worker process and return what it returns.

    Raises:
        RuntimeError: It raised, died, or took longer than 60 s.
    """
    return in_workers([(method, function, args)])[0]


def in_workers(
    jobs: List[Tuple[str, Callable[..., Any], Tuple[Any, ...]]],
    meanwhile: Callable[[], object] = bool,
    seconds: float = 60,
) -> List[Any]:
    """Call functions in worker processes, all at once, and return their results.

    Args:
        jobs: Start methods, functions and their arguments.
        meanwhile: Called once all have been started.
        seconds: How long they may take, from then on.

    Raises:
        RuntimeError: One of them raised, died, or took too long.
    """
    processes, receivers, results = [], [], []
    try:
        for method, function, args in jobs:
            context: Any = multiprocessing.get_context(method)
            if method == "forkserver":  # to save time
                context.set_forkserver_preload(["wandb", __name__])
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(sender, function, args))
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        meanwhile()
        deadline = time.monotonic() + seconds
        for (method, _, _), process, receiver in zip(jobs, processes, receivers):
            if not receiver.poll(max(0, deadline - time.monotonic())):
                raise RuntimeError(f"the {method} worker hangs")
            try:
                ok, result = receiver.recv()
            except EOFError:
                process.join()
                raise RuntimeError(
                    f"the {method} worker died, exit code {process.exitcode}"
                ) from None
            if not ok:
                raise RuntimeError(f"in the {method} worker: {result}")
            results.append(result)
        for process in processes:
            process.join(max(5, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    return results


def _work(sender: Any, function: Callable[..., Any], args: Tuple[Any, ...]) -> None:
    try:
        sender.send((True, function(*args)))
    except Exception as error:
        sender.send((False, f"{type(error).__name__}: {error}"))


def start_methods() -> List[str]:
    return [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


def fork() -> str:
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def load_in_new_session(data: bytes, function: Callable[..., Any]) -> Any:
    """Unpickle in a process that knows no service, as a later session does."""
    env = {k: v for k, v in os.environ.items() if k not in ("WANDB_SERVICE", "WANDB_API_KEY")}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pickle")
        with open(path, "wb") as file:
            pickle.dump((function, data), file)
        code = (
            "import pickle, sys\n"
            "function, data = pickle.load(open(sys.argv[1], 'rb'))\n"
            "result = function(pickle.loads(data))\n"
            "pickle.dump(result, open(sys.argv[1], 'wb'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"in a later session: {last_line(done.stderr)}")
        with open(path, "rb") as file:
            return pickle.load(file)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


# --- Config -----------------------------------------------------------------


@probe(2007)
def config_pickle() -> None:
    """A config comes back from pickle as it was, in every protocol."""
    with offline_run() as run:
        run.config.update_locked({"swept": 1}, user="sweep")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            twin = pickle.loads(pickle.dumps(run.config, protocol))
            check(type(twin) is type(run.config), "another type came back")
            for name in ("_items", "_locked", "_users", "_users_inv", "_users_cnt"):
                check(vars(twin)[name] == vars(run.config)[name], f"{name} differs")
            check(list(twin._items) == list(run.config._items), "another order came back")


@probe(833)
def config_copy() -> None:
    """copy and deepcopy of a config give one that changes by itself."""
    with offline_run() as run:
        for twin in (copy.copy(run.config), copy.deepcopy(run.config)):
            check(config_items(twin) == ITEMS, "the copy differs")
            twin.update({"lr": 0.2, "new": 1}, allow_val_change=True)
            check(config_items(twin)["new"] == 1, "the copy can't be changed")
            check(config_items(run.config) == ITEMS, "changing the copy changed the run")
        copy.deepcopy(run.config)["nested"]["depth"] = 2
        check(run.config["nested"]["depth"] == 1, "a deep copy shares nested values")


@probe(2007, 3748, 5062)
def config_spawn() -> None:
    """wandb.config, in a namespace of arguments, arrives in a spawned worker."""
    import wandb

    with offline_run():
        args = argparse.Namespace(config=wandb.config)
        for method in start_methods():
            got = in_worker(_read_config, args, method=method)
            check(got == ITEMS, f"{method}: got {got}")


def _read_config(args: argparse.Namespace) -> Dict[str, Any]:
    check(args.config.lr == args.config["lr"], "attribute and item differ")
    return config_items(args.config)


@probe()
def config_secret() -> None:
    """No pickle of a config, run or summary holds the API key or the settings."""
    import wandb

    with offline_run() as run:
        run.log({"x": 1})
        for name, thing in (("config", wandb.config), ("run", run), ("summary", run.summary)):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                data = pickle.dumps(thing, protocol)
                check(API_KEY.encode() not in data, f"the {name}'s pickle holds the API key")
                check(b"settings" not in data.lower(), f"the {name}'s pickle holds settings")


@probe(2007)
def config_names() -> None:
    """hasattr works on a config, for dunder names too."""
    with offline_run() as run:
        check(hasattr(run.config, "lr") and run.config.lr == 0.1, "lr is not an attribute")
        for name in ("missing", "__getstate__missing__", "__deepcopy_missing__", "__array__"):
            check(not hasattr(run.config, name), f"it has {name}")


@probe()
def config_blank() -> None:
    """hasattr works on a config whose __init__ has not run, as pickle makes them."""
    wandb: Any = importlib.import_module("wandb")
    blank = wandb.Config.__new__(wandb.Config)
    check(not hasattr(blank, "missing"), "it has an attribute")
    check(not hasattr(blank, "_items"), "it has _items")


@probe(5062)
def config_checkpoint() -> None:
    """A checkpoint that holds a config is saved and loaded by torch, by default."""
    try:
        import torch
    except ImportError:
        raise CannotRun("torch is not installed") from None
    with offline_run() as run, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pt")
        torch.save({"config": run.config, "weights": torch.zeros(2)}, path)
        check(config_items(torch.load(path)["config"]) == ITEMS, "the config differs")
        loaded = torch.load(path, weights_only=False)
        check(config_items(loaded["config"]) == ITEMS, "the config differs")


@probe()
def config_disabled() -> None:
    """The config of a disabled run is copied, pickled and sent to a worker."""
    with offline_run("disabled") as run:
        for twin in (pickle.loads(pickle.dumps(run.config)), copy.deepcopy(run.config)):
            check(config_items(twin) == ITEMS, "the copy differs")
        got = in_worker(_read_config, argparse.Namespace(config=run.config))
        check(got == ITEMS, f"got {got}")


# --- Run --------------------------------------------------------------------


@probe()
def run_same_process() -> None:
    """In its own process a run comes back from copy and pickle as itself."""
    import wandb

    with offline_run() as run:
        check(pickle.loads(pickle.dumps(run)) is run, "pickle made another run")
        check(copy.copy(run) is run, "copy made another run")
        log = pickle.loads(pickle.dumps(wandb.log))
        check(log.__self__ is run, "wandb.log came back bound to another run")
        partial = pickle.loads(pickle.dumps(functools.partial(run.log, {"x": 1})))
        check(partial.func.__self__ is run, "a partial came back bound to another run")
        before = pickle.dumps(run)
        run.finish()
        check(pickle.loads(before) is run, "finished, pickle made another run")
        check(pickle.loads(pickle.dumps(run)) is run, "finished, pickle made another run")


@probe()
def run_config() -> None:
    """In a worker, run.config and the run's names are those of the run."""
    with offline_run() as run:
        expected = (run.id, "name", "probe", "group", ITEMS)
        for method in start_methods():
            got = in_worker(_read_run, run, method=method)
            check(got == expected, f"{method}: got {got}")
            got = in_worker(_log_and_read, run, method=method)
            check(got == (7, ITEMS, ITEMS), f"{method}, after logging: got {got}")


def _read_run(run: Any) -> Tuple[Any, ...]:
    check(run.url is None, "an offline run has a URL")
    return run.id, run.name, run.project, run.group, config_items(run.config)


def _log_and_read(run: Any) -> Tuple[Any, ...]:
    import wandb

    held = run.config
    run.log({"x": 7})
    check(wandb.run is run, "wandb.run is not the run")
    check(held is run.config, "run.config is another object than before")
    return run.summary["x"], config_items(run.config), config_items(wandb.config)


@probe()
def run_spawn() -> None:
    """A run handed to a spawned worker is used there, and its row arrives."""
    with offline_run() as run:
        for method in start_methods():
            in_worker(_log_rows, run, method, 1, method=method)
        path = _path(run)
        run.finish()
        for method in start_methods():
            check_rows(path, {method: 1})


def _log_rows(run: Any, name: str, rows: int) -> None:
    for n in range(rows):
        run.log({name: n})


def _path(run: Any) -> str:
    return os.path.join(os.path.dirname(run.dir), f"run-{run.id}.wandb")


def check_rows(path: str, expected: Dict[str, int]) -> None:
    """Look for rows in a run's file, where some releases write them late."""
    deadline = time.monotonic() + 10
    while True:
        rows: List[Dict[str, str]] = []
        with contextlib.suppress(runfile.BrokenFile):  # empty, as yet
            rows = runfile.history(path)
        got = {name: sum(name in row for row in rows) for name in expected}
        if got == expected or time.monotonic() > deadline:
            check(got == expected, f"rows that arrived: {got}, expected: {expected}")
            return
        time.sleep(0.2)


@probe()
def run_rows() -> None:
    """All rows of four workers, started in each way, are in the run's file."""
    with offline_run() as run:
        methods = [*start_methods(), "spawn", fork()]
        jobs = [(m, _log_rows, (run, f"worker {n}", 50)) for n, m in enumerate(methods)]
        in_workers(jobs)
        path = _path(run)
        run.finish()
        check_rows(path, {f"worker {n}": 50 for n in range(len(jobs))})


@probe()
def run_finish() -> None:
    """A worker that calls finish() ends its own use of the run, and nobody else's."""
    with offline_run() as run:
        finished = multiprocessing.get_context("spawn").Semaphore(0)
        jobs: List[Any] = [
            ("spawn", _log_and_finish, (run, "run.finish", finished)),
            (fork(), _log_and_finish, (run, "wandb.finish", finished)),
            ("spawn", _log_after, (run, "spawn", finished)),
            (fork(), _log_after, (run, "fork", finished)),
        ]
        in_workers(jobs, seconds=30)
        run.log({"owner": 1})
        path = _path(run)
        run.finish()
        check_rows(path, {"run.finish": 20, "wandb.finish": 20, "spawn": 20, "fork": 20})
        check_rows(path, {"owner": 1})


def _log_and_finish(run: Any, how: str, finished: Any) -> None:
    import wandb

    _log_rows(run, how, 20)
    if how == "run.finish":
        run.finish()
    else:
        wandb.finish()
    for _ in range(2):
        finished.release()


def _log_after(run: Any, name: str, finished: Any) -> None:
    _log_rows(run, name, 10)
    for _ in range(2):
        check(finished.acquire(timeout=30), "the workers that finish hang")
    _log_rows(run, name, 10)


@probe()
def run_owner_finished() -> None:
    """Workers that use a run after its owner has finished it are told at once."""
    with offline_run() as run:
        context = multiprocessing.get_context("spawn")
        ready, finished = context.Semaphore(0), context.Event()
        jobs = [
            (method, _log_late, (run, attached, ready, finished))
            for method in ("spawn", fork())
            for attached in (True, False)
        ]

        def finish() -> None:
            for _ in jobs:
                ready.acquire(timeout=20)
            run.finish()
            finished.set()

        for told in in_workers(jobs, meanwhile=finish, seconds=20):
            check(run.id in told, f"the error does not name the run: {told}")


def _log_late(run: Any, attached: bool, ready: Any, finished: Any) -> str:
    if attached:
        run.log({"x": 1})
    ready.release()
    finished.wait()
    begun = time.monotonic()
    try:
        run.log({"x": 2})
    except Exception as error:
        check(time.monotonic() - begun < 5, f"{error}: it took seconds")
        return str(error)
    raise AssertionError("log said nothing")


@probe(first=True)
def run_early_server() -> None:
    """A pool and a forkserver that are older than wandb.init() can use the run."""
    with contextlib.ExitStack() as stack:
        context: Any = multiprocessing.get_context(start_methods()[-1])
        pool = stack.enter_context(context.Pool(1))
        pool.apply(_is_current, ("config", None))  # it is up, and has imported wandb
        run = stack.enter_context(offline_run())
        pool.apply_async(_log_rows, (run, "pool", 5)).get(60)
        in_worker(_log_rows, run, "server", 5, method=context.get_start_method())
        path = _path(run)
        pool.close()
        pool.join()
        run.finish()
        check_rows(path, {"pool": 5, "server": 5})


@probe(4990)
def run_global() -> None:
    """In a worker of spawn(), wandb.run, wandb.config and wandb.log are the parent's run's."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise CannotRun("torch is not installed") from None
    with offline_run() as run:
        wandb_ddp_patch.spawn(_use_globals, (run.id,), nprocs=2)
        path = _path(run)
        run.finish()
        check_rows(path, {"rank 0": 1, "rank 1": 1})


def _use_globals(rank: int, run_id: str) -> None:
    import wandb

    check(wandb.run is not None and wandb.run.id == run_id, f"wandb.run is {wandb.run}")
    check(config_items(wandb.config) == ITEMS, "wandb.config differs")
    wandb.log({f"rank {rank}": 1})


@probe(8619)
def run_forward() -> None:
    """A worker passes the run on, to its own worker, before using it."""
    with offline_run() as run:
        got = in_worker(_forward, _read_run, run)
        check(got == (run.id, "name", "probe", "group", ITEMS), f"got {got}")
        got = in_worker(_forward, _log_and_read, run)
        check(got == (7, ITEMS, ITEMS), f"after logging: got {got}")


def _forward(function: Callable[..., Any], run: Any) -> Any:
    again = pickle.loads(pickle.dumps(run))
    return in_worker(function, again)


@probe(9948)
def run_gone() -> None:
    """A run loaded when its service is gone can be read at once; logging says why not."""
    run_id, data = in_worker(_pickle_a_run)
    got, error, seconds = load_in_new_session(data, _use_gone_run)
    check(got == (run_id, "name", "probe", "group", ITEMS), f"got {got}")
    check(run_id in error, f"the error does not name the run: {error}")
    check(seconds < 5, "reading and the error took seconds")


def _pickle_a_run() -> Tuple[str, bytes]:
    with offline_run() as run:
        return run.id, pickle.dumps(run)


def _use_gone_run(run: Any) -> Tuple[Any, str, float]:
    begun = time.monotonic()
    got = _read_run(run)
    try:
        run.log({"x": 1})
    except Exception as error:
        return got, str(error), time.monotonic() - begun
    raise AssertionError("log said nothing")


@probe(4458)
def run_disabled() -> None:
    """A disabled run is copied, pickled and sent to a worker, and still takes calls."""
    with offline_run("disabled") as run:
        run.log({"x": 1})
        check(pickle.loads(pickle.dumps(run)) is run, "pickle made another run")
        check(copy.copy(run) is run, "copy made another run")
        got = in_worker(_use_disabled_run, run)
        check(got == (run.id, ITEMS, 2), f"got {got}")


def _use_disabled_run(run: Any) -> Tuple[Any, ...]:
    check(run.disabled, "it is not disabled")
    check(run.summary["x"] == 1, "its summary differs")
    run.log({"x": 2})
    return run.id, config_items(run.config), run.summary["x"]


# --- the rest ---------------------------------------------------------------


@probe(2007)
def summary_names() -> None:
    """hasattr works on a summary."""
    with offline_run() as run:
        run.log({"x": 1})
        check(hasattr(run.summary, "x") and run.summary.x == 1, "x is not an attribute")
        for name in ("missing", "__missing__"):
            check(not hasattr(run.summary, name), f"it has {name}")
        with contextlib.suppress(KeyError):
            run.summary.missing  # noqa: B018
    with offline_run("disabled") as run:
        check(not hasattr(run.summary, "missing"), "a disabled run's has it")


@probe()
def summary_copy() -> None:
    """A summary is copied and pickled, and sent to a worker; the parts in it, too."""
    with offline_run() as run:
        run.summary["best"] = {"loss": 0.5}
        run.summary["x"] = 1
        check(run.summary["best"]["loss"] == 0.5, "the summary is not there")
        for twin in (copy.copy(run.summary), copy.deepcopy(run.summary)):
            twin["x"] = 2
            twin["best"]["loss"] = 0.1
            check((twin["x"], twin["best"]["loss"]) == (2, 0.1), "the copy can't be changed")
        sub = copy.deepcopy(run.summary["best"])
        sub["loss"] = 0.1
        check((run.summary["x"], run.summary["best"]["loss"]) == (1, 0.5), "the run changed")
        twin = pickle.loads(pickle.dumps(run.summary))
        check(twin["x"] == 1, "the pickled summary differs")
        twin["x"] = 3
        check(run.summary["x"] == 3, "the pickled summary is not the run's")
        got = in_worker(_read_summary, run.summary, run.summary["best"])
        check(got == (3, 0.5, 0.5), f"got {got}")
    with offline_run("disabled") as run:
        run.summary["best"] = {"loss": 0.5}
        got = in_worker(_read_disabled_summary, copy.deepcopy(run.summary))
        check(got == 0.5, f"disabled: got {got}")


def _read_summary(summary: Any, best: Any) -> Tuple[Any, ...]:
    return summary["x"], summary["best"]["loss"], best["loss"]


def _read_disabled_summary(summary: Any) -> Any:
    return summary["best"]["loss"]


@probe()
def summary_fork() -> None:
    """A forked worker reads the summary, at once."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise CannotRun("this platform has no fork")
    with offline_run() as run:
        run.summary["x"] = 1
        check(run.summary["x"] == 1, "the summary is not there")
        got, seconds = in_worker(_read_x, run, method="fork")
        check(got == 1, f"got {got}")
        check(seconds < 5, "it took seconds")


def _read_x(run: Any) -> Tuple[Any, float]:
    begun = time.monotonic()
    got: Any
    try:
        got = run.summary["x"]
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
    return got, time.monotonic() - begun


@probe()
def preinit() -> None:
    """wandb.config, wandb.summary and wandb.log are sent to a worker before wandb.init()."""
    import wandb

    for name in ("config", "summary", "log"):
        thing = getattr(wandb, name)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            check(pickle.loads(pickle.dumps(thing, protocol)) is thing, f"{name} differs")
        check(in_worker(_is_current, name, thing), f"{name} is not the worker's")
    early = pickle.dumps((wandb.config, wandb.log))
    with offline_run() as run:
        config, log = pickle.loads(early)
        check(config is run.config, "wandb.config is not the current one")
        check(log.__self__ is run, "wandb.log is not the current one")
    check(pickle.loads(pickle.dumps(wandb.log)) is wandb.log, "after finish, log differs")


def _is_current(name: str, thing: Any) -> bool:
    import wandb

    return thing is getattr(wandb, name)


# --- running them -----------------------------------------------------------


def here(name: str) -> Verdict:
    """Run a probe in this process.

    Args:
        name: A key of ``PROBES``.
    """
    begun = time.monotonic()
    passed: Optional[bool] = True
    reason, trace = "as it should be", ""
    try:
        PROBES[name].function()
    except CannotRun as error:
        passed, reason = None, str(error)
    except BaseException as error:
        passed = False
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        trace = _last_lines(traceback.format_exc().splitlines())
    return Verdict(name, passed, reason, trace, round(time.monotonic() - begun, 2))


def _last_lines(lines: Iterable[str]) -> str:
    return "\n".join(list(lines)[-_TRACE_LINES:])[-4000:]


def run(name: str, *, shim: bool, python: str = sys.executable, timeout: float = 120) -> Verdict:
    """Run one probe in a process of its own; see :func:`run_all`."""
    return run_all([name], shim=shim, python=python, timeout=timeout)[name]


def run_all(
    names: Iterable[str],
    *,
    shim: bool,
    python: str = sys.executable,
    timeout: float = 120,
    jobs: int = 1,
    done: Callable[[Verdict], object] = bool,
) -> Dict[str, Verdict]:
    """Run probes in other processes; each process runs many, and imports wandb once.

    Args:
        names: Keys of ``PROBES``.
        shim: Whether the patches are on.
        python: The interpreter whose wandb is probed. This package need not be
            installed there.
        timeout: Seconds after which a probe counts as hanging. Its process is
            ended, with all that it has started; another one goes on.
        jobs: How many processes run at once.
        done: Called with each verdict as it comes, from any thread.

    Returns:
        The verdicts, in the order of the names.
    """
    names = list(names)
    todo = collections.deque(names)
    verdicts: Dict[str, Verdict] = {}
    processes: List[_Process] = []

    def end(process: _Process) -> None:
        processes.remove(process)
        process.kill()

    def work() -> None:
        process = None
        while todo:
            try:
                name = todo.popleft()
            except IndexError:
                break
            if process is not None and PROBES[name].first:
                end(process)
                process = None
            if process is None:
                process = _Process(python, shim)
                processes.append(process)
            verdict, usable = process.ask(name, timeout)
            if not usable:
                end(process)
                process = None
            verdicts[name] = verdict
            done(verdict)

    work_at_hand = todo, processes
    _at_work.append(work_at_hand)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(work) for _ in range(min(jobs, len(names)))]:
                future.result()
        finally:
            _end(*work_at_hand)
            _at_work.remove(work_at_hand)
    return {name: verdicts[name] for name in names if name in verdicts}


_copying = threading.Lock()


@functools.lru_cache(maxsize=None)
def _copy_of_us() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="wandb_ddp_patch-")
    os.mkdir(os.path.join(folder.name, "empty"))
    here = os.path.dirname(os.path.abspath(__file__))
    shutil.copytree(here, os.path.join(folder.name, "path", "wandb_ddp_patch"))
    return folder


def _alone() -> str:
    # What lies beside this package, and in the current folder, may be another
    # wandb than the one that is probed.
    with _copying:  # lru_cache would let two threads make two, and drop one
        return _copy_of_us().name


# The names and the processes of each run_all() that is not over.
_at_work: List[Tuple[collections.deque[str], List[_Process]]] = []


def stop() -> None:
    """End all that :func:`run_all` is running, in all threads; for Ctrl-C."""
    for work_at_hand in list(_at_work):
        _end(*work_at_hand)


def _end(todo: collections.deque[str], processes: List[_Process]) -> None:
    todo.clear()
    for process in list(processes):
        process.kill()


class _Process:
    """An interpreter that runs the probes which it is told to."""

    def __init__(self, python: str, shim: bool) -> None:
        path = [os.path.join(_alone(), "path")]
        if python == sys.executable:  # to another one, these packages mean nothing
            path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        env = {key: val for key, val in os.environ.items() if not key.startswith("WANDB_")}
        env.update(
            PYTHONPATH=os.pathsep.join(map(os.path.abspath, path)),
            PYTHONWARNINGS="ignore",
            WANDB_DDP_PATCH="1" if shim else "0",
            WANDB_SILENT="true",
        )
        self._process = subprocess.Popen(
            [python, "-m", "wandb_ddp_patch.probes", "-"],
            cwd=os.path.join(_alone(), "empty"),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        # A thread, because what a hanging worker leaves open can't be waited for.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put(None)

    def ask(self, name: str, timeout: float) -> Tuple[Verdict, bool]:
        """Get a probe's verdict, and whether the process can be asked again."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died; the reader says so
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
        begun = time.monotonic()
        deadline = begun + timeout
        last: collections.deque[str] = collections.deque(maxlen=_TRACE_LINES)
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                if self._process.poll() is None:
                    continue
                break  # its end is not always seen: a service may have the pipe, too
            if line is None:
                break
            if line.startswith(_MARK):
                with contextlib.suppress(ValueError):  # a worker has written into it
                    return Verdict(**json.loads(line[len(_MARK) :])), True
            if line.strip():
                last.append(line.rstrip())
        if self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        code = self._process.poll()
        reason = f"hangs: no end after {timeout:g} s"
        if code is not None:
            reason = f"died, exit code {code}: {last[-1].strip() if last else 'no output'}"
        seconds = round(time.monotonic() - begun, 2)
        return Verdict(name, False, reason, _last_lines(last), seconds), False

    def kill(self) -> None:
        """End it and what it has left behind: hanging workers, services."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, 9)
        elif self._process.poll() is None:
            tree = ["taskkill", "/T", "/F", "/PID", str(self._process.pid)]
            subprocess.run(tree, capture_output=True, check=False)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def main(arguments: List[str]) -> int:
    if arguments != ["-"] and (not arguments or not PROBES.keys() >= set(arguments)):
        sys.stderr.write(f"usage: python -m wandb_ddp_patch.probes {'|'.join(PROBES)} ...\n")
        return 2
    import wandb_ddp_patch.probes as probes  # not __main__: workers import it by name

    failed = False
    for name in map(str.strip, sys.stdin) if arguments == ["-"] else arguments:
        verdict = probes.here(name)
        print("\n" + _MARK + json.dumps(vars(verdict)), flush=True)
        failed = failed or verdict.passed is False
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
