"""spawn(): what torch.multiprocessing.spawn does, and the run, from a warm forkserver."""

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from processes import alive
from rows import finished_run
from warm_scripts import TORCH, Host, WarmScript

import wandb_ddp_patch
from wandb_ddp_patch import runfile
from wandb_ddp_patch.forkserver import arguments, launch, selftest
from wandb_ddp_patch.runs import state

pytestmark = pytest.mark.xdist_group("spawn()")
TOP = """
import os, sys, time
import torch, wandb
import wandb_ddp_patch
"""
WITHOUT_WANDB = TOP.replace(", wandb", "", 1)
MAIN = """
if __name__ == "__main__":
"""
# The same in a case of the host's.
CASE = """
def main():
"""
HOST = (
    TOP
    + """
with open("imports", "a") as file:
    print(__name__, os.getpid(), file=file)
"""
    + MAIN
    + "    wandb_ddp_patch.warm_up()\n"
)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What would be a script each: one, whose forkserver has been started before any run."""
    folder = tmp_path_factory.mktemp("host")
    host = Host(folder, HOST, spawns=2, OLD="old", OMP_NUM_THREADS="3")
    yield host.run
    host.close()


def test_it_takes_what_torchs_takes():
    from torch.multiprocessing import spawn

    ours, theirs = (inspect.signature(f).parameters for f in (wandb_ddp_patch.spawn, spawn))
    assert list(ours) == list(theirs)
    assert all(ours[p].default == theirs[p].default for p in ours if p != "start_method")


@pytest.mark.parametrize("mode", [None, "offline"])  # None: wandb's telemetry is on
def test_a_workers_first_row_imports_nothing(warm, mode):
    out = warm(
        TOP
        + """
def work(rank):
    before = set(sys.modules)
    wandb.log({"loss": 1})
    print(sorted(set(sys.modules) - before))
"""
        + MAIN
        + """
    wandb.init(mode="offline", project="p")
    wandb_ddp_patch.spawn(work)
""",
        imports=TORCH,  # what wandb imports depends on the mode
        WANDB_MODE=mode,
        WANDB_BASE_URL="http://127.0.0.1:1",
        WANDB_API_KEY="0123456789" * 4,
    )
    assert out == "[]\n"


def test_the_parents_run_is_live_in_each_worker(host, tmp_path):
    out = host(
        TOP
        + """
def work(rank):
    run = wandb.run
    wandb.log({f"rank {rank}": rank})
    wandb.config.update({f"rank {rank}": wandb.config.lr})
    wandb.summary[f"best {rank}"] = rank
    assert wandb.run is run
    if rank: wandb.finish()
    else: print(run.name, wandb.config.lr)
"""
        + CASE
        + """
    run = wandb.init(project="p", name="name", config={"lr": 0.1}, dir=os.getcwd())
    for method in (None, "spawn", "fork"):
        wandb_ddp_patch.spawn(work, nprocs=2, start_method=method)
        run.log({"owner": 1})
    run.finish()
""",
        folder=tmp_path,
    )
    assert out == "name 0.1\n" * 3
    file = finished_run(tmp_path)
    rows = runfile.history(file)
    assert [sum(key in row for row in rows) for key in ("rank 0", "rank 1", "owner")] == [3, 3, 3]
    assert runfile.exit_code(file) == 0
    kinds = {"config": set(), "summary": set()}
    for record in runfile.records(file):
        kind = record.WhichOneof("record_type")
        if kind in kinds:
            kinds[kind].update(item.key for item in getattr(record, kind).update)
    assert kinds["config"] >= {"rank 0", "rank 1"}
    assert kinds["summary"] >= {"best 0", "best 1"}


def test_workers_have_the_environment_of_now_before_their_arguments_are_loaded(host):
    out = host(
        TOP
        + """
class Argument:
    def __setstate__(self, state):
        self.seen = os.environ.get("NEW"), os.environ.get("OLD")

def work(rank, argument):
    print(argument.seen, os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"), torch.get_num_threads())
    print(sorted(name for name in os.environ if "PRELOAD" in name or name == "PYTHONPATH"))
"""
        + CASE
        + """
    assert os.environ["OLD"] == "old"  # since before the forkserver was started
    argument = Argument()
    argument.x = 1
    for new in ("1", "2"):
        os.environ["NEW"] = os.environ["OMP_NUM_THREADS"] = new
        wandb_ddp_patch.spawn(work, (argument,))
        os.environ.pop("OLD", None)
"""
    )
    names = "['PYTHONPATH']"
    assert out.splitlines() == ["('1', 'old') None 1", names, "('2', None) None 2", names]


def test_workers_have_the_streams_of_now(host, tmp_path):
    # As a file for each stage, pytest's capfd, and wandb up to 0.12 put them elsewhere.
    host(
        TOP
        + """
def work(rank, name):
    print(name, flush=True)
    print(name, file=sys.stderr, flush=True)
"""
        + CASE
        + """
    old = os.dup(1), os.dup(2)
    for name in ("first", "second"):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        wandb_ddp_patch.spawn(work, args=(name,))
        os.dup2(old[0], 1)
        os.dup2(old[1], 2)
""",
        folder=tmp_path,
    )
    for name in ("first", "second"):
        assert (tmp_path / name).read_text() == f"{name}\n" * 2


def test_a_worker_prints_in_one_run_after_another(warm):
    # wandb's console of a run is a pipe then, which is gone with it. The forkserver is started
    # when it is the first run's.
    out = warm(
        TOP
        + """
def work(rank):
    for i in range(500):
        print("a line of some length that a worker prints", i, flush=True)
"""
        + MAIN
        + """
    for n in range(2):
        run = wandb.init(project="p", settings=wandb.Settings(console="redirect"))
        wandb_ddp_patch.spawn(work)
        run.finish()
""",
        quiet=False,
    )
    assert out.count("a line of some length") == 1000


def test_the_script_is_imported_once(host):
    out = host(
        TOP
        + """
from multiprocessing import forkserver
def work(rank):
    pass

def imports():
    with open("imports") as file:
        return [line.split() for line in file]
"""
        + CASE
        + """
    before = imports()
    for _ in range(3):
        wandb_ddp_patch.spawn(work, nprocs=4)
    server = str(forkserver._forkserver._forkserver_pid)
    print([name for name, pid in imports() if pid == server])
    print([line for line in imports() if line not in before and line[1] != server])
"""
    )
    assert out.splitlines() == ["['__mp_main__']", "[]"]


def test_what_is_too_long_for_the_environment_is_handed_over(warm):
    out = warm(
        WITHOUT_WANDB
        + """
print("imported", __name__, len(sys.path) > 9000)
def work(rank):
    print(len(sys.argv))
"""
        + MAIN
        + """
    import multiprocessing.util, pathlib
    sys.argv += ["x" * 100] * 9999
    # A Path ends Python's own forkserver, up to 3.13.
    sys.path += [pathlib.Path("/none"), *(f"/none/{i}/{'x' * 20}" for i in range(9000))]
    for _ in range(2):
        wandb_ddp_patch.spawn(work)
    print(list(pathlib.Path(multiprocessing.util.get_temp_dir()).glob("preload*")))
""",
        imports=TORCH,
    )
    first, *rest = out.splitlines()
    assert first == "imported __main__ False"
    assert rest == ["imported __mp_main__ True", "10000", "10000", "[]"]


def test_a_module_is_a_script_too(run_script, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "train.py").write_text(
        "import wandb_ddp_patch\ndef work(rank): print('rank', rank, __name__)\n"
        "if __name__ == '__main__': wandb_ddp_patch.spawn(work)\n"
    )
    done = run_script("-m", "package.train")
    assert (done.stdout, done.stderr) == ("rank 0 __mp_main__\n", "")


@pytest.mark.parametrize("seed", ["", "numpy.random.seed(0); random.seed(0); torch.manual_seed(0)"])
def test_workers_have_random_numbers_of_their_own(warm, seed):
    pytest.importorskip("numpy")
    out = warm(
        WITHOUT_WANDB
        + f"""
import numpy, random
{seed}
def work(rank):
    print(numpy.random.rand(), random.random(), torch.rand(1).item())
"""
        + MAIN
        + """
    wandb_ddp_patch.spawn(work, nprocs=2)
    wandb_ddp_patch.spawn(work, nprocs=2, start_method="spawn")
""",
        imports=TORCH,
        spawns=2 if seed else 0,  # forks would have those that NumPy's import has seeded
    )
    assert len(out.split()) == 12
    assert len(set(out.split())) == (3 if seed else 12)


FAILS = (
    TOP
    + """
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
def work(rank, how):
    if rank:
        time.sleep(300), print('was not ended', flush=True)
    wandb.log({"x": 1})
    if how == "raise":
        raise ValueError("as asked")
    elif how == "exit":
        sys.exit(3)
    os.kill(os.getpid(), 9)
"""
)


@pytest.fixture
def fails(request, tmp_path):
    """Run a script with workers that fail; where it does not finish its run, until it ends."""

    def run(end, code):
        if "finish" in end:
            host = request.getfixturevalue("host")
            return host(FAILS + CASE + code + end, folder=tmp_path, quiet=False)
        return request.getfixturevalue("warm")(FAILS + MAIN + code + end, quiet=False)

    return run


@pytest.mark.parametrize("end", ["run.finish()", "wandb.finish()", "", "del run"])
def test_a_worker_that_raises(fails, tmp_path, end):
    out = fails(
        end,
        """
    run = wandb.init(project="p", dir=os.getcwd())
    try:
        wandb_ddp_patch.spawn(work, ("raise",), nprocs=2)
    except ProcessRaisedException as error:
        print('in work' in str(error), 'ValueError: as asked' in str(error), error.error_index)
    print(run is wandb.run)
    wandb.log({"y": 1})
    """,
    )
    assert out == "True True 0\nTrue\n"
    file = finished_run(tmp_path)
    assert runfile.exit_code(file) == 1
    assert len(runfile.history(file)) == 2


def test_failed_workers_do_not_keep_runs_alive(run):
    def fail():
        raise ChildProcessError

    def references_after(failures):
        for _ in range(failures):
            state.get_state(run).exit_code = None  # as another run has it
            with pytest.raises(ChildProcessError):
                launch._join(fail, run)
        return sys.getrefcount(run)

    assert references_after(1) == references_after(9)


@pytest.mark.parametrize(
    ("how", "attribute", "end"), [("exit", 3, "run.finish()"), ("kill", -9, "")]
)
def test_a_worker_that_ends_otherwise(fails, tmp_path, how, attribute, end):
    out = fails(
        end,
        f"""
    run = wandb.init(project="p", dir=os.getcwd())
    context = wandb_ddp_patch.spawn(work, ({how!r},), nprocs=2, join=False)
    try:
        while not context.join(timeout=1): pass
    except ProcessExitedException as error:
        print(error.exit_code, error.error_index)
    """,
    )
    assert out == f"{attribute} 0\n"
    file = finished_run(tmp_path)
    assert runfile.exit_code(file) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("torch.cuda._is_in_bad_fork = lambda: True", "initialises CUDA"),
        (
            "import threading as t; t.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            "starts threads",
        ),
        ("torch.set_num_threads(2); torch.ones(4_000_000).add(1).sum()", "starts threads"),
    ],
)
def test_what_no_fork_survives_makes_it_spawn_and_say_so(warm, line, why):
    out = warm(
        WITHOUT_WANDB
        + line
        + """
def work(rank):
    print("worker", os.environ["NEW"], flush=True)
"""
        + MAIN
        + """
    import warnings
    os.environ["NEW"] = "new"
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            wandb_ddp_patch.spawn(work)
        print(caught[0].category.__name__, caught[0].filename == __file__, caught[0].message)
""",
        imports=TORCH,
        spawns=2,
    )
    worker, warning = out.splitlines()[:2]
    assert worker == "worker new"
    assert warning.startswith("RuntimeWarning True") and why in warning and "script.py" in warning
    assert out == f"{worker}\n{warning}\n" * 2


def test_a_worker_that_waits_for_the_processor_is_not_stuck(monkeypatch):
    lines = ["while True: pass"] * 5 + ["import time; time.sleep(99)"]
    processes = [subprocess.Popen([sys.executable, "-c", line]) for line in lines]
    waits, spins, *_, sleeps = (process.pid for process in processes)
    os.setpriority(os.PRIO_PROCESS, waits, 19)
    try:
        asked = {pid: selftest.StallDetector(pid).is_stuck for pid in (waits, spins, sleeps)}
        stuck = set()
        while not stuck:
            time.sleep(0.2)
            stuck = {pid for pid, is_stuck in asked.items() if is_stuck()}
        assert stuck == {sleeps}
        monkeypatch.setattr(selftest, "_SPINNING_SECONDS", 0.1)
        while not asked[spins]():
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_script_that_fails_in_workers_fails_as_with_torch(warm):
    err = warm(
        WITHOUT_WANDB
        + """
if __name__ == "__mp_main__":
    raise OSError("not in workers")
def work(rank): pass
"""
        + MAIN
        + """
    wandb_ddp_patch.spawn(work)
""",
        imports=TORCH,
        spawns=1,
        fails=True,
    )
    assert "OSError: not in workers" in err
    assert "ProcessExitedException: process 0 terminated with exit code 1" in err


def test_workers_start_workers(host, tmp_path):
    host(
        TOP
        + """
def inner(rank, outer):
    wandb.log({f"{outer} {rank}": 1})

def work(rank):
    wandb_ddp_patch.spawn(inner, (rank,), nprocs=2)
    wandb.log({f"outer {rank}": 1})
"""
        + CASE
        + """
    run = wandb.init(project="p", dir=os.getcwd())
    wandb_ddp_patch.spawn(work, nprocs=2)
    run.finish()
""",
        folder=tmp_path,
    )
    file = finished_run(tmp_path)
    keys = sorted(key for row in runfile.history(file) for key in row if key[0] != "_")
    assert keys == ["0 0", "0 1", "1 0", "1 1", "outer 0", "outer 1"]


@pytest.mark.parametrize(
    ("line", "method"),
    [
        ("", None),
        ("vars(os).pop('pidfd_open', None)", None),  # an old Python, or an old Linux
        ("", "spawn"),  # of which torch itself ends the first
    ],
)
def test_workers_end_with_their_parent_while_a_fork_of_it_lives(tmp_path, line, method):
    script = WarmScript(
        tmp_path,
        WITHOUT_WANDB
        + f"""
import signal
from wandb_ddp_patch.forkserver import parent_watch
parent_watch.INTERRUPTED_SECONDS = 1
{line}
def work(rank):
    signal.signal(signal.SIGINT, [signal.default_int_handler, signal.SIG_IGN, print][rank])
    print(f"{{os.getpid()}}\\n", end="", flush=True)
    while True:
        time.sleep(1)
"""
        + MAIN
        + f"""
    wandb_ddp_patch.spawn(work, nprocs=3, join=False, start_method={method!r})
    print(os.fork() or os.getpid(), flush=True)
    time.sleep(300)
""",
        imports=TORCH,
        spawns=3 if method == "spawn" else 0,
    )
    pids = list(map(int, script.wait_for_lines(5)))
    (sibling,) = (pid for pid in set(pids) if pids.count(pid) == 2)
    os.kill(script.pid, signal.SIGKILL)
    script.wait()
    deadline = time.monotonic() + 60
    while sum(map(alive, set(pids))) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in set(pids) if alive(pid)]
    for pid in left:
        os.kill(pid, 9)
    assert left == [sibling]


def test_without_torch_it_says_what_it_needs(fresh):
    err = fresh(
        """
        import sys
        sys.modules["torch"] = None
        import wandb_ddp_patch
        wandb_ddp_patch.spawn(print)
        """,
        fails=True,
    )
    assert err.splitlines()[-1] == (
        "ImportError: wandb_ddp_patch.spawn() needs PyTorch: pip install torch"
    )


def test_turned_off_it_is_torchs(warm):
    out = warm(
        TOP
        + """
def work(rank):
    print("rank", rank, wandb.run)
"""
        + MAIN
        + """
    wandb_ddp_patch.warm_up()
    run = wandb.init(project="p")
    wandb_ddp_patch.spawn(work)
    from multiprocessing import forkserver
    print(forkserver._forkserver._forkserver_pid)
    run.finish()
""",
        spawns=1,
        WANDB_DDP_PATCH="0",
    )
    assert out == "rank 0 None\nNone\n"


@pytest.mark.parametrize(
    "line",
    [
        "from wandb_ddp_patch.forkserver import server; server._write_request = lambda _: '/none'",
        # In the forkserver alone, importing the script fails.
        "open('fails', 'w').close()",
        # Its socket's name becomes too long.
        "import tempfile; tempfile.tempdir = os.path.join(os.getcwd(), 'x' * 120)\n"
        "    os.mkdir(tempfile.tempdir)",
        # Each is a file descriptor, and a forkserver takes 250 or so.
        "argument = [torch.zeros(1) for _ in range(300)]",
    ],
)
def test_where_a_forkserver_can_not_do_it_workers_are_spawned(warm, line):
    out = warm(
        WITHOUT_WANDB
        + """
if __name__ == "__mp_main__" and os.path.exists("fails"):
    with open("/proc/self/cmdline") as file:
        if "forkserver" in file.read():
            raise OSError
def work(rank, argument):
    print(f"rank {rank}\\n", end="", flush=True)
"""
        + MAIN
        + f"""
    import warnings
    argument = None
    {line}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wandb_ddp_patch.spawn(work, (argument,), nprocs=2)
    print([warning.category.__name__ for warning in caught])
""",
        imports=TORCH,
        spawns=2,
        quiet=False,
    )
    assert sorted(out.splitlines()) == ["['RuntimeWarning']", "rank 0", "rank 1"]


def test_a_run_that_can_not_be_sent_stays_behind(host):
    out = host(
        TOP
        + """
def work(rank):
    print(wandb.run, flush=True)
"""
        + CASE
        + """
    import warnings
    run = wandb.init()
    vars(run.config)["_items"]["module"] = sys
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wandb_ddp_patch.spawn(work)
    print(caught[0].message)
    run.finish()
"""
    )
    assert out.splitlines()[0] == "None"
    assert "without the current run: cannot pickle 'module' object" in out


def test_a_disabled_run_is_live_too(host):
    out = host(
        TOP
        + """
def work(rank):
    wandb.log({"x": 1})
    print(wandb.run.id, wandb.run.disabled, wandb.config.lr, wandb.summary["x"], flush=True)
"""
        + CASE
        + """
    run = wandb.init(mode="disabled", config={"lr": 1})
    print(run.id, True, 1, 1, flush=True)
    wandb_ddp_patch.spawn(work)
    run.finish()
"""
    )
    (line,) = set(out.splitlines())
    assert out == f"{line}\n" * 2


def test_a_start_method_that_this_system_lacks_is_refused_with_a_sentence(warm):
    error = warm(
        WITHOUT_WANDB
        + """
def work(rank):
    pass
"""
        + MAIN
        + """
    import multiprocessing, signal

    # As on Windows.
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    vars(signal).pop("SIGKILL", None)
    wandb_ddp_patch.spawn(work, start_method="forkserver")
""",
        imports=TORCH,
        fails=True,
    )
    assert error.splitlines()[-1] == (
        f"ValueError: {sys.platform} has no start method 'forkserver'; it has spawn"
    )


def test_a_function_that_is_in_no_file_is_refused_at_once(warm):
    code = """if True:
        import wandb_ddp_patch

        def train(rank):
            pass

        try:
            wandb_ddp_patch.spawn(train)
        except ValueError as error:
            print(error)
        wandb_ddp_patch.spawn(train, start_method="fork")
    """
    assert warm(code, imports=TORCH, is_file=False).startswith(
        "train is defined in a notebook's cell or at a prompt"
    )


REFUSED = [
    ("lambda rank: None", "()", "<lambda>", ""),
    ("local()", "()", "local.<locals>.train", ""),
    ("functools.partial(train, local())", "()", "the partial", ""),
    ("train", "(1, (n for n in []))", "args[1]", "cannot pickle"),
    ("train", "({'a': [threading.Lock()]},)", "args[0]", "cannot pickle"),
    ("train", "(fork.Lock(),)", "args[0]", "A SemLock created in a fork context"),
]


def test_what_cannot_be_sent_is_refused_before_anything_starts(warm):
    code = f"""
        import functools, multiprocessing, sys, threading
        import wandb_ddp_patch

        fork = multiprocessing.get_context("fork")

        def train(rank, *args):
            pass

        def local():
            def train(rank):
                pass
            return train

        if __name__ == "__main__":
            for fn, args in {[case[:2] for case in REFUSED]}:
                try:
                    wandb_ddp_patch.spawn(eval(fn), eval(args))
                except ValueError as error:
                    print(error)
                wandb_ddp_patch.spawn(eval(fn), eval(args), start_method="fork")
            from multiprocessing import forkserver
            print(forkserver._forkserver._forkserver_pid)
    """
    *lines, server_pid = warm(code, imports=TORCH).splitlines()
    assert server_pid == "None"
    assert len(lines) == len(REFUSED)
    for line, (_, _, what, why) in zip(lines, REFUSED):
        assert line.startswith(f"{what} can't be sent to a new process: {why}")
        assert line.endswith('or pass start_method="fork"')


def test_a_script_from_standard_input_is_refused_at_once(run_script):
    code = """
import os.path, wandb_ddp_patch
wandb_ddp_patch.spawn(print, start_method="fork")
wandb_ddp_patch.spawn(os.path.exists)
"""
    done = run_script("-", input=code, returncode=None)
    assert done.stderr.splitlines()[-1].startswith(
        "ValueError: this script is read from standard input, where a new process can't"
    )
    assert "<stdin>'" not in done.stderr


def test_trying_arguments_leaves_large_ones_as_they_are():
    import numpy
    import torch

    spawn = multiprocessing.get_context("spawn")
    tensor, array = torch.ones(8), numpy.ones(8)
    model = torch.nn.Linear(2, 2)
    things = [tensor, array, model, model.forward, spawn.Lock(), spawn.Queue(), *spawn.Pipe()]
    threads = threading.active_count()
    assert arguments.pickling_problem(print, (*things, spawn.Value("i"), {"a": [tensor]})) is None
    assert not tensor.is_shared() and not model.weight.is_shared()
    assert threading.active_count() == threads

    class Sized:
        def __reduce__(self):
            return list, (), None, iter(lambda: numbers.append(0) or bytes(1000), None)

    numbers = []
    assert arguments.pickling_problem(print, (Sized(),)) is None
    assert len(numbers) < 1000
