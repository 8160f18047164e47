"""WANDB_DDP_PATCH_SPAWN, use_forkserver(): scripts that call torch's spawn, unchanged but fast."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, clean_env
from processes import alive
from rows import finished_run
from warm_scripts import BOTH, TORCH, Host, WarmScript

from wandb_ddp_patch import runfile

pytestmark = pytest.mark.xdist_group("torch's spawn")

ON = {"WANDB_DDP_PATCH_SPAWN": "forkserver"}
TOP = """
import json, multiprocessing, os, sys, time
import torch, wandb
import torch.multiprocessing as mp
import wandb_ddp_patch

def how():
    forked = os.getppid() != multiprocessing.parent_process().pid
    return "forked" if forked else "spawned"

def say(rank, *args):
    print(f"{how()}\\n", end="", flush=True)
"""
WITHOUT_WANDB = TOP.replace(", wandb", "", 1)
MAIN = """
if __name__ == "__main__":
    import warnings
"""
# The same in a case of the host's.
CASE = """
def main():
"""
# Counts warnings, shows them, and whether they are at the caller's line.
WARNED = """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        {}
    for each in caught:
        print(each.category.__name__, each.filename == sys.argv[0], each.message)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What would be a script each, in one."""
    host = Host(tmp_path_factory.mktemp("host"), TOP, **ON)
    yield host.run
    host.close()


WAYS = [
    "mp.spawn(say, nprocs=2)",
    "mp.spawn(say, (), 2, True, False, 'spawn')",
    "mp.start_processes(say, nprocs=2)",
    "mp.start_processes(fn=say, args=(1,), nprocs=2, start_method='spawn')",
    "sys.modules['torch.multiprocessing.spawn'].start_processes(say, nprocs=2)",
    "spawn(say, nprocs=2)",
    "torch.multiprocessing.spawn(say, nprocs=2)",
]


@pytest.mark.parametrize(
    "way", [*WAYS[:1], *(pytest.param(way, marks=pytest.mark.nightly) for way in WAYS[1:])]
)
def test_each_way_to_call_it_forks(warm, host, way):
    top = WITHOUT_WANDB + "from torch.multiprocessing import spawn\n"
    script = top + MAIN + f"    {way}\n"
    assert warm(script, imports=TORCH, spawns=2) == "spawned\n" * 2
    assert host(top + CASE + f"    {way}\n") == "forked\n" * 2
    # spawn was imported before.
    script = script.replace(f"    {way}", f"    wandb_ddp_patch.use_forkserver(); {way}")
    assert warm(script, imports=TORCH) == "forked\n" * 2


ON_AND_OFF = (
    WITHOUT_WANDB
    + MAIN
    + """
    theirs = wandb_ddp_patch.spawn  # not torch's
    kept = mp.start_processes
    def state():
        found = [s.state for s in wandb_ddp_patch.status() if "start_processes" in s.target]
        return found, hasattr(mp.start_processes, "torchs_own")
    for step in ("apply", "revert", "apply"):
        getattr(wandb_ddp_patch, step)()
        print(*state())
        mp.spawn(say)
    wandb_ddp_patch.revert()
    kept(say)
    print(sys.modules["torch.multiprocessing.spawn"].start_processes is mp.start_processes)
    print(any("wandb" in name for name in multiprocessing.context._concrete_contexts))
"""
)
NOTHING = "[] False\nspawned\n" * 3 + "spawned\nTrue\nFalse\n"
CALLED = ON_AND_OFF.replace("theirs =", "wandb_ddp_patch.use_forkserver(); theirs =")


def test_it_can_be_off_and_taken_off(warm):
    on, off = "['applied'] True\nforked\n", "['off'] False\nspawned\n"
    spawned = {"imports": TORCH, "spawns": 4}
    assert warm(ON_AND_OFF, **spawned, **ON) == on + off + on + "spawned\nTrue\nFalse\n"
    assert warm(CALLED, **spawned, **ON, WANDB_DDP_PATCH="0") == NOTHING


@pytest.mark.nightly
def test_where_nobody_asks_for_it_or_all_is_off_it_is_torchs(fresh):
    assert fresh(ON_AND_OFF) == NOTHING
    assert fresh(ON_AND_OFF, **ON, WANDB_DDP_PATCH="0") == NOTHING
    assert fresh(CALLED, WANDB_DDP_PATCH="0") == NOTHING


def test_it_needs_no_wandb_and_no_line_of_the_script(run_script):
    # By the start-up file of the environment in which these tests run.
    script = TOP.replace(", wandb\n", "\n").replace("import wandb_ddp_patch\n", "")
    for env, expected in ((ON, "forked\n"), ({}, "spawned\n")):
        done = run_script(script + MAIN + "    mp.spawn(say)\n", env={"PYTHONPATH": None, **env})
        assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.nightly
def test_a_bad_value_is_said_once_and_changes_nothing(fresh, tmp_path):
    script = TOP + MAIN + "    wandb_ddp_patch.apply()\n    mp.spawn(say, nprocs=2)\n"
    script += "    sys.stderr.flush(); print(open('err').read().count('fork-server'))\n"
    script = (
        "import os; os.dup2(os.open('err', os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)\n" + script
    )
    # What is shown is the warning's first line; the second is the code's.
    assert fresh(script, WANDB_DDP_PATCH_SPAWN="fork-server") == "spawned\n" * 2 + "1\n"
    assert "set it to forkserver, or unset it" in (tmp_path / "err").read_text()
    for fine in ("", "spawn"):
        (tmp_path / "err").unlink()
        assert fresh(script, WANDB_DDP_PATCH_SPAWN=fine) == "spawned\n" * 2 + "0\n"


# --- nothing changes but the speed ------------------------------------------------

FACTS = (
    TOP
    + """
import random, signal, threading
import numpy
numpy.random.seed(1), torch.manual_seed(2**40)
IMPORTED = multiprocessing.current_process().name[:13], multiprocessing.get_start_method()

class Argument:
    def __setstate__(self, state):
        self.seen = os.environ.get("NEW")

def work(rank, argument):
    process = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    facts = {
        "imported": IMPORTED,
        "process": [process.name, process._identity, process.daemon, type(process).__name__],
        "is spawned": isinstance(process, multiprocessing.context.SpawnProcess),
        "parent": [parent.name, parent.pid == argument.pid],
        "method": multiprocessing.get_start_method(),
        "argument": argument.seen,
        "environ": {k: v for k, v in os.environ.items() if k != "_"},
        "sys": [sys.argv, sys.path, sys.flags[:-1], os.getcwd(), __name__],
        "run": repr(wandb.run),
        "config": type(wandb.config).__name__,
        "signals": {int(s): str(signal.getsignal(s)).split(" at ")[0] for s in signal.Signals},
        "threads": torch.get_num_threads(),
        "torch": torch.rand(1).item(),
        "numpy": numpy.random.rand(),
        "random": random.random() == argument.random,
        "stdin": sys.stdin.read(),
        "children": len(multiprocessing.active_children()),
        "handled": [k for k in ("torch", "wandb") if k in sys.modules],
    }
    with open(f"facts {argument.number} {rank}", "w") as file:
        json.dump(facts, file, indent=1, sort_keys=True, default=str)
"""
    + MAIN
    + """
    run = wandb.init(project="p", config={"lr": 1})
    before = multiprocessing.Process(target=len, args=("",))  # it has number 1
    for number in range(2):
        argument = Argument()
        argument.__dict__.update(number=number, pid=os.getpid(), random=random.random())
        os.environ["NEW"] = os.environ["OMP_NUM_THREADS"] = str(number + 1)
        os.environ.pop("OLD", None)
        sys.argv.append(str(number)) if not number else None
        mp.spawn(work, (argument,), nprocs=2, daemon=bool(number))
    run.finish()
"""
).replace("self.seen =", "self.__dict__.update(state); self.seen =")


def test_workers_are_as_spawned_ones_are(warm, tmp_path):
    facts = {}
    for how, value in (("spawned", ""), ("forked", "forkserver")):
        warm(FACTS, OLD="1", WANDB_DDP_PATCH_SPAWN=value)
        facts[how] = {
            (n, rank): json.loads((tmp_path / f"facts {n} {rank}").read_text())
            for n in range(2)
            for rank in range(2)
        }
    for which, spawned in facts["spawned"].items():
        forked = facts["forked"][which]
        for one in (spawned, forked):
            for name in ("WANDB_DDP_PATCH_SPAWN", "WANDB_SERVICE", "WANDB__SERVICE"):
                one["environ"].pop(name, None)
        assert spawned == forked
    assert facts["forked"][1, 1]["process"] == ["SpawnProcess-5", [5], True, "SpawnProcess"]


FAILS = (
    WITHOUT_WANDB
    + """
def work(rank, how, asked):
    if rank:
        time.sleep(300), print("was not ended", flush=True)
    asked.wait()  # a forked worker may be done before anybody has asked whether it is
    if how == "raise":
        raise ValueError("as asked")
    elif how == "exit":
        sys.exit(3)
    os.kill(os.getpid(), 9)
"""
    + MAIN
    + """
    from torch.multiprocessing.spawn import ProcessException
    for how in ("raise", "exit", "kill"):
        for join in (True, False):
            asked = mp.get_context("spawn").Event()
            if join:
                asked.set()
            try:
                context = mp.spawn(work, (how, asked), nprocs=2, join=join)
                print(context.join(timeout=0), len(context.pids()), len(context.processes))
                asked.set()
                while not context.join(timeout=1): pass
            except ProcessException as error:
                text = str(error)
                print(type(error), error.error_index, getattr(error, "exit_code", None), text)
                print([process.exitcode for process in context.processes] if not join else "")
"""
)


def test_exceptions_are_torchs_to_the_letter(warm):
    spawned = warm(FAILS, imports=TORCH, spawns=12, quiet=False)
    forked = warm(FAILS, imports=TORCH, quiet=False, **ON)
    assert spawned == forked
    assert "ValueError: as asked" in forked and "signal SIGKILL" in forked


def test_locks_queues_and_tensors_of_its_context_arrive(host):
    out = host(
        TOP
        + """
def work(rank, lock, queue, simple, event, value, tensor, receiver):
    with lock:
        value.value += 1
        tensor[rank] += 1
    queue.put((rank, how()))
    simple.put(torch.full((2,), rank))
    event.wait()
    if not rank:
        print(receiver.recv(), flush=True)
"""
        + CASE
        + """
    context = mp.get_context("spawn")
    shared = context.Lock(), context.Queue(), context.SimpleQueue(), context.Event()
    value, tensor = context.Value("i", 0), torch.zeros(2)
    receiver, sender = context.Pipe(duplex=False)
    for n in range(2):
        shared[3].clear()
        started = mp.spawn(work, (*shared, value, tensor, receiver), nprocs=2, join=False)
        print(sorted(shared[1].get() for _ in range(2)))
        print(sorted(shared[2].get().sum().item() for _ in range(2)), started.join(timeout=0))
        sys.stdout.flush()
        sender.send("sent")
        shared[3].set()
        while not started.join(): pass
        print(value.value, tensor.tolist())
        sys.stdout.flush()
"""
    )
    first = ["[(0, 'forked'), (1, 'forked')]", "[0, 2] False", "sent"]
    assert out.splitlines() == [*first, "2 [1.0, 1.0]", *first, "4 [2.0, 2.0]"]


def test_what_is_to_be_done_at_the_end_is_done(warm, tmp_path):
    out = warm(
        WITHOUT_WANDB
        + """
import atexit, ctypes, gzip, tempfile, weakref
libc = ctypes.CDLL(None)
libc.printf(b"from C at the import\\n")
def work(rank, collects):
    global held
    held = [open("text", "w"), gzip.open("zipped", "wt"), tempfile.TemporaryDirectory(),
        tempfile.NamedTemporaryFile(dir='.', prefix='temporary-')]
    for file in held[:2]:
        file.write("written")
    atexit.register(print, "at exit", how(), flush=True)
    print(held[2].name, flush=True)
    libc.printf(b"from C\\n")
    if collects:
        import gc
        gc.collect()
"""
        + MAIN
        + """
    libc.fflush(None)
    import gzip
    for collects in (False, True):
        mp.spawn(work, (collects,))
        print(open("text").read(), gzip.open("zipped", "rt").read(), flush=True)
        os.remove("text"), os.remove("zipped")
""",
        imports=TORCH,
        **ON,
    )
    *imported, first, second = re.split("^(?=/)", out, flags=re.MULTILINE)
    assert set("".join(imported).splitlines()) == {"from C at the import"}
    for collects, lines in ((False, first), (True, second)):
        folder, *rest = lines.splitlines()
        assert rest == ["at exit forked", "from C", "written written"], collects
        assert not os.path.exists(folder), collects
    assert not list(tmp_path.glob("temporary-*"))


def test_a_run_that_is_passed_is_live_and_the_current_one_is_not(host, tmp_path):
    out = host(
        TOP
        + """
def work(rank, args):
    assert wandb.run is None, wandb.run
    for step in range(5):
        args["run"].log({f"rank {rank}": step, "lr": args["config"].lr})
    say(rank)
"""
        + CASE
        + """
    run = wandb.init(project="p", config={"lr": 0.1}, dir="DIR")
    for _ in range(2):
        mp.spawn(work, ({"run": run, "config": wandb.config},), nprocs=2)
    run.log({"owner": 1})
    run.finish()
""".replace("DIR", str(tmp_path))
    )
    assert out == "forked\n" * 4
    file = finished_run(tmp_path)
    counts = [
        sum(key in row for row in runfile.history(file)) for key in ("rank 0", "rank 1", "lr")
    ]
    assert counts == [10, 10, 20]
    assert runfile.exit_code(file) == 0


def test_spawn_beside_it_sends_the_run_and_spawns_where_asked(warm):
    out = warm(
        TOP
        + """
def work(rank):
    print(how(), wandb.run and wandb.run.name, flush=True)
"""
        + MAIN
        + """
    mp.set_start_method("spawn")
    run = wandb.init(project="p", name="name")
    mp.spawn(work)
    wandb_ddp_patch.spawn(work)
    wandb_ddp_patch.spawn(work, start_method="spawn")
    mp.start_processes(work, start_method="forkserver")
    mp.spawn(work)
    run.finish()
""",
        spawns=1,
        **ON,
    )
    assert out.splitlines() == [
        "forked None",
        "forked name",
        "spawned name",
        "forked None",
        "forked None",
    ]


def test_a_parents_end_interrupts_its_workers(tmp_path):
    script = WarmScript(
        tmp_path,
        WITHOUT_WANDB
        + """
import signal
def work(rank):
    def handle(*_):
        print("handled", flush=True)
        os._exit(0)
    if rank:
        signal.signal(signal.SIGINT, handle)
    print(f"{how()} {os.getpid()}\\n", end="", flush=True)
    time.sleep(300)
"""
        + MAIN
        + """
    mp.spawn(work, nprocs=2)
""",
        imports=TORCH,
        env=ON,
    )
    lines = script.wait_for_lines(2)
    os.kill(script.pid, signal.SIGKILL)
    script.wait()
    pids = [int(line.split()[1]) for line in lines]
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = list(filter(alive, pids))
    for pid in left:
        os.kill(pid, 9)
    assert ([line.split()[0] for line in lines], left) == (["forked"] * 2, [])
    assert script.said()[0].splitlines() == [*lines, "handled"]


def test_what_the_import_adds_to_sys_path_and_the_environment_is_there(warm):
    script = (
        WITHOUT_WANDB
        + """
sys.path.insert(0, "/" + __name__)
os.environ["A"] = "set"
def work(rank):
    print(sys.path[:2], os.environ["A"], flush=True)
"""
        + MAIN
        + "    mp.spawn(work)\n    mp.spawn(say)"
    )
    there = "['/__mp_main__', '/__main__'] set\n"
    assert warm(script, imports=TORCH, **ON) == there + "forked\n"
    assert warm(script, imports=TORCH, spawns=2) == there + "spawned\n"


# --- where a forkserver can't give it ------------------------------------------------


WORK = """
def work(rank, argument):
    print(how(), len(argument), multiprocessing.current_process().name, flush=True)
"""
WARNING = "RuntimeWarning True wandb_ddp_patch: torch's workers are spawned"
CHANGES = [
    ("os.environ['SEED'] = '1'", "the variable SEED"),
    ("os.mkdir('sub'); os.chdir('sub')", "its working directory"),
    ("main.__file__ = os.path.abspath('other.py')", "its main module"),
    ("os.environ['OMP_NUM_THREADS'] = '2,1'", "the variable OMP_NUM_THREADS"),
    ("argument.extend(torch.zeros(1) for _ in range(300))", "more tensors"),
    ("sys.argv.append('x')", "sys.argv"),
    ("sys.path.append('x')", "sys.path"),
]


@pytest.fixture(scope="module")
def changing_host(tmp_path_factory):
    """One script for changes that can be undone: each is made after a start of workers."""
    top = WITHOUT_WANDB + "SEEN = os.environ.get('SEED')\n"
    folder = tmp_path_factory.mktemp("host")
    host = Host(folder, top, imports=TORCH, spawns=len(CHANGES), **ON)
    yield host.run
    host.close()


@pytest.mark.parametrize(("change", "why"), CHANGES)
def test_it_spawns_once_something_has_changed_and_says_what(changing_host, change, why):
    out = changing_host(
        WITHOUT_WANDB
        + WORK
        + CASE
        + f"""
    import shutil, warnings
    main, argument = sys.modules["__main__"], []
    file = shutil.copy(main.__file__, "other.py") and main.__file__
    try:
        mp.spawn(work, (argument,))
        {change}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mp.spawn(work, (argument,))
        for each in caught:
            print(each.category.__name__, each.filename == __file__, each.message)
    finally:
        main.__file__ = file
""",
        quiet=False,
    )
    # That of workers which can't be forked is used again.
    first, second, warning = out.splitlines()
    assert first.startswith("forked 0 SpawnProcess-")
    number = int(first.rpartition("-")[2]) + 1
    assert second == f"spawned {300 if 'tensors' in why else 0} SpawnProcess-{number}"
    assert warning.startswith(WARNING) and why in warning


WHY = [
    (
        "import threading as t; t.Thread(target=time.sleep, args=(9999,), daemon=True).start()",
        "",
        "starts threads",
    ),
    ("torch.cuda._is_in_bad_fork = lambda: True", "", "initialises CUDA"),
    ("FILE = open(__file__)", "", "leaves files or connections open"),
    ("if __name__ != '__main__': os.chdir('..')", "", "changes its working directory"),
    ("import signal; signal.alarm(9999)", "", "sets a timer"),
    ("import atexit; atexit.register(len, '')", "", "registers atexit handlers"),
]
# Not in its forks, nor in spawned workers.
FAILS_IN_A_FORKSERVER = """
own, parent = (open(f"/proc/{pid}/cmdline").read() for pid in (os.getpid(), os.getppid()))
1 / ("forkserver" not in own or "forkserver" in parent)
"""
# Each takes seconds.
MORE = [
    ("SEEN = dict(os.environ)", "os.environ['HOME'] = '/none'", "the variable HOME"),
    ("SEEN = [n for n in os.environ if n[:2] == 'A_']", "os.environ['A_'] = ''", "variable A_,"),
    (
        "SEEN = __import__('configparser').ConfigParser(os.environ, interpolation=None)",
        "os.environ['B'] = ''",
        "the variable B, which importing",
    ),
    ("SEEN = os.environ.copy()", "os.environ['HOME'] = '/none'", "the variable HOME"),
    ("", "os.umask(0o77)", "umask"),
    ("", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", "ignored signals"),
    ("if __name__ != '__main__': sys.argv = [sys.argv[0], 'x']", "", "changes sys.argv"),
    ("os.environ['A'] = __name__", "", "sets or deletes the variable A"),
    ("if __name__ != '__main__': wandb.init(project='p')", "", "starts"),
    (FAILS_IN_A_FORKSERVER, "", "failed"),
    ("", "multiprocessing.set_executable(os.path.realpath('python'))", "set_executable"),
]


@pytest.mark.parametrize(
    ("imported", "called", "why"),
    [*WHY, *(pytest.param(*case, marks=pytest.mark.nightly) for case in MORE)],
)
def test_it_spawns_and_says_why(warm, tmp_path, imported, called, why):
    os.symlink(sys.executable, tmp_path / "python")
    line = "mp.spawn(work, (argument,))"
    # What is done after a first start has changed since, and that start was no other.
    first = f"    {line}\n" if called and why != "set_executable" else ""
    needs_wandb = "wandb.init" in imported
    out = warm(
        (TOP if needs_wandb else WITHOUT_WANDB)
        + imported
        + WORK
        + MAIN
        + f"""
    argument = []
{first}
    {called}
"""
        + WARNED.format(line),
        imports=BOTH if needs_wandb else TORCH,
        spawns=1,
        quiet=False,
        **ON,
    )
    lines = out.splitlines()
    number = 1
    if first:
        assert lines.pop(0) == "forked 0 SpawnProcess-1"
        number = 2
    worker, warning = lines
    assert worker == f"spawned 0 SpawnProcess-{number}"
    assert warning.startswith(WARNING) and why in warning


@pytest.mark.nightly
def test_workers_of_workers_and_other_methods_are_torchs(fresh):
    script = (
        TOP
        + """
def outer(rank):
    try:
        mp.spawn(say)
    except AssertionError as error:
        print(error, flush=True)

def method(rank):
    print(multiprocessing.get_start_method(), flush=True)
"""
        + MAIN
        + """
    mp.spawn(outer)
    mp.spawn(outer, daemon=True)
    for name in ("fork", "forkserver"):
        mp.start_processes(method, start_method=name)
"""
    )
    out = fresh(script, **ON)
    assert out == fresh(script)
    assert out.splitlines() == [
        "spawned",
        "daemonic processes are not allowed to have children",
        "fork",
        "forkserver",
    ]


def test_a_function_that_is_in_no_file_fails_as_before(tmp_path):
    code = "import torch.multiprocessing as mp, wandb_ddp_patch\ndef f(rank): pass\nmp.spawn(f)"
    ends = []
    for env in ({}, ON):
        script = WarmScript(tmp_path, code, imports=TORCH, spawns=1, is_file=False, env=env)
        returncode = script.wait()
        ends.append((returncode, [s for s in script.said()[1].splitlines() if s[:1] != " "]))
    assert ends[0] == ends[1]
    assert "Can't get attribute 'f'" in "".join(ends[0][1])


def test_other_torches(warm):
    out = warm(
        WITHOUT_WANDB
        + MAIN
        + """
    module = sys.modules["torch.multiprocessing.spawn"]
    torchs = module.start_processes
    def other(fn, workers=1, *, start_method="spawn", **more):
        print(workers, more, flush=True)
        torchs(fn, nprocs=workers, start_method=start_method)
    module.start_processes = other
    wandb_ddp_patch.use_forkserver()
    module.start_processes(say, new=2)
    module.start_processes(start_method="spawn", fn=say, workers=2)
    wandb_ddp_patch.revert()
    module.start_processes = unfit = lambda fn: None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            wandb_ddp_patch.use_forkserver()
    print(module.start_processes is unfit, [str(each.message) for each in caught])
""",
        imports=TORCH,
    )
    assert out.splitlines()[:5] == ["1 {'new': 2}", "forked", "2 {}", "forked", "forked"]
    assert out.splitlines()[5].startswith("True [") and out.count("takes no fn, or no start") == 1


@pytest.mark.parametrize("value", [pytest.param("", marks=pytest.mark.nightly), "forkserver"])
def test_the_reported_script_runs_with_not_one_line_changed(tmp_path, value):
    with open(tmp_path / "log", "w") as log:
        script = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "train_ddp.py"), "--epochs=2"],
            cwd=tmp_path,
            env=clean_env(WANDB_DDP_PATCH_SPAWN=value),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        commands = set()
        while script.poll() is None:
            commands.update(children(script.pid))
            time.sleep(0.1)
    said = (tmp_path / "log").read_text()
    assert script.returncode == 0 and "wandb_ddp_patch" not in said, said
    forked, spawned = (any(word in c for c in commands) for word in ("forkserver", "spawn_main"))
    assert (forked, spawned) == (bool(value), not value)
    file = finished_run(tmp_path)
    assert sum("accuracy" in row for row in runfile.history(file)) == 2


def children(pid):
    """The command lines of the processes that a process has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield (folder / "cmdline").read_text()
        except (OSError, IndexError):
            pass
