"""What a warm worker shares or misses beside a spawned one: measured, and said."""

import importlib.util
import mmap
import multiprocessing
import multiprocessing.heap
import os
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import pytest
from conftest import clean_env
from warm_scripts import TORCH

from wandb_ddp_patch.forkserver import process_state

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it is measured in /proc"),
    pytest.mark.xdist_group("warm workers"),
]
NIGHTLY = pytest.mark.nightly
ON = {"WANDB_DDP_PATCH_SPAWN": "forkserver"}
TOP = """
import ctypes, multiprocessing, os, sys, warnings
import torch
import torch.multiprocessing as mp
import wandb_ddp_patch
{imported}

def work(rank, *args):
    forked = os.getppid() != multiprocessing.parent_process().pid
    print("forked" if forked else "spawned", torch.get_num_threads(), flush=True)

def start(start):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start(work)
    for each in caught:
        print(each.category.__name__, each.message)
"""
MAIN = """
if __name__ == "__main__":
"""
BOTH = "    for way in (wandb_ddp_patch.spawn, mp.spawn): start(way)\n"
# A thread that no Python code has started.
NATIVE = """
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
"""


# --- what the script's import makes -----------------------------------------------------


def read_only():
    with open(__file__, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def memfd():
    descriptor = os.memfd_create("name")
    os.ftruncate(descriptor, 9)
    return mmap.mmap(descriptor, 9)


@pytest.mark.parametrize(
    ("make", "made"),
    [
        (multiprocessing.Lock, "a lock or semaphore"),
        (multiprocessing.Event, "a lock or semaphore"),
        (lambda: multiprocessing.heap.Arena(9), "shared memory"),
        (lambda: multiprocessing.RawArray("d", 9_999_999), "shared memory"),
        (lambda: mmap.mmap(-1, 9), "shared memory"),
        (memfd, "shared memory"),
        (lambda: shared_memory.SharedMemory(create=True, size=9), "shared memory"),
        (lambda: subprocess.Popen(["sleep", "99"]), "subprocesses"),
        (lambda: mmap.mmap(-1, 9, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), None),
        (read_only, None),
        (lambda: bytearray(99_000_000), None),
        (lambda: os.open(os.devnull, os.O_RDWR), None),
    ],
)
def test_what_forks_would_share_or_lack_is_seen(make, made):
    before = process_state.unforkable_resources()
    thing = make()
    try:
        assert process_state.new_resource(before) == made
    finally:
        for end in ("kill", "communicate", "close", "unlink"):
            getattr(thing, end, int)()


@pytest.mark.parametrize(
    ("imported", "why"),
    [
        (
            "lock = multiprocessing.Lock()",
            "creates a lock or semaphore, of which each spawned worker",
        ),
        (NATIVE + "libc.pthread_setname_np(thread, b'pool-0')", "starts threads (pool-0)"),
        pytest.param(NATIVE, "starts threads (of native code)", marks=NIGHTLY),
        pytest.param("import signal; signal.alarm(99)", "a timer (ITIMER_REAL)", marks=NIGHTLY),
        pytest.param("import mmap; shared = mmap.mmap(-1, 9)", "shared memory", marks=NIGHTLY),
        pytest.param("if __name__ != '__main__': os.setpgid(0, 0)", "process group", marks=NIGHTLY),
        pytest.param("os.register_at_fork(after_in_child=HANG)", "then hangs", marks=NIGHTLY),
    ],
)
def test_what_a_script_sets_up_makes_workers_spawned(warm, imported, why):
    imported = imported.replace(
        "HANG", "lambda: __name__ != '__main__' and __import__('signal').pause()"
    )
    out = warm(TOP.format(imported=imported) + MAIN + BOTH, imports=TORCH, spawns=2, **ON)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["spawned", "RuntimeWarning"] * 2
    assert why in lines[1] and why in lines[3]


@pytest.mark.parametrize("imported", ["import numpy", "import pandas", "import tqdm, sklearn"])
def test_what_packages_set_up_for_themselves_does_not(warm, imported):
    for name in imported.split()[1:]:
        pytest.importorskip(name.strip(","))
    out = warm(TOP.format(imported=imported) + MAIN + BOTH, imports=TORCH, **ON)
    assert out.count("forked") == 2


# --- what this process hands on -----------------------------------------------------------

CHANGES = {
    "pass": "None",
    "held = [open(os.devnull), threading.Thread(target=print), bytearray(99_000_000)]": "None",
    "threading.Thread(target=signal.pause, daemon=True).start()": "None",
    "signal.signal(signal.SIGUSR1, print)": "None",
    "os.chdir('/')": "None",  # which is compared elsewhere
    "os.umask(0o77)": "umask",
    "os.nice(1)": "priority (nice)",
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))": "limits (ulimit)",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))": "limits (ulimit)",
    "signal.signal(signal.SIGUSR1, signal.SIG_IGN)": "ignored signals",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])": "blocked signals",
    "os.setpgid(0, 0)": "process group",
    "os.setsid()": "process group",
    "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})": "CPU affinity",
    "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))": "scheduling policy",
    "open('/proc/self/oom_score_adj', 'w').write('1000')": "oom_score_adj",
    "open('/proc/self/coredump_filter', 'w').write('0x1')": "coredump filter",
    "prctl(38, 1, 0, 0, 0)": "no_new_privs",
    "prctl(29, 77_000, 0, 0, 0)": "timer slack",
    "prctl(41, 1, 0, 0, 0)": "THP_enabled",
    "libc.personality(0x0040000)": "personality",
    # For the system's administrator.
    "os.setuid(65534)": "user ids",
    "os.seteuid(65534)": "user ids",
    "os.setgid(65534)": "group ids",
    "os.setgroups([1])": "groups",
    "prctl(24, 5, 0, 0, 0)": "capabilities",
    "assert not libc.unshare(0x04000000)": "namespace (uts)",
    "assert not libc.unshare(0x20000000)": "namespace (pid_for_children)",
    "os.chroot('/proc')": "root folder",
}


def test_what_a_process_hands_on_is_compared(run_script):
    code = f"""if True:
        import ctypes, os, resource, signal, sys, threading
        from wandb_ddp_patch.forkserver import process_state
        libc = ctypes.CDLL(None)
        prctl = libc.prctl
        for line in {list(CHANGES)!r}:
            sys.stdout.flush()
            if not os.fork():  # a process that is the forkserver's for it
                before = process_state.inherited_state()
                try:
                    exec(line)
                    name = process_state.changed_name(before, os.getppid())
                    print(line, name, sep=" -> ", flush=True)
                except (AssertionError, OSError, ValueError):
                    print(line, "not here", sep=" -> ", flush=True)
                os._exit(0)
            os.wait()
    """
    done = run_script("-c", code)
    seen = dict(line.split(" -> ") for line in done.stdout.splitlines())
    assert seen.keys() == CHANGES.keys()
    assert {k: v for k, v in seen.items() if v not in (CHANGES[k], "not here")} == {}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)", "no_new_privs"),
        pytest.param("os.setgroups([1])", "groups", marks=NIGHTLY),
    ],
)
def test_workers_are_spawned_once_this_process_hands_on_another_thing(warm, change, name):
    if "setgroups" in change and os.geteuid():
        pytest.skip("only root may")
    code = TOP.format(imported="") + MAIN + BOTH + f"    {change}\n" + BOTH
    out = warm(code, imports=TORCH, spawns=2, **ON)
    how = [line.split()[0] for line in out.splitlines()]
    assert how == ["forked"] * 2 + ["spawned", "RuntimeWarning"] * 2
    assert out.count(f"inherit from this one has changed ({name}) since the forkserver") == 2


def test_workers_are_spawned_where_the_forkserver_is_out_of_reach(warm):
    # As after setuid(), in a folder that only the user before may enter.
    gone = "    from multiprocessing import forkserver\n"
    gone += "    os.remove(forkserver._forkserver._forkserver_address)\n"
    code = TOP.format(imported="") + MAIN + BOTH + gone + BOTH
    out = warm(code, imports=TORCH, spawns=2, **ON)
    how = [line.split()[0] for line in out.splitlines()]
    assert how == ["forked"] * 2 + ["spawned", "RuntimeWarning"] * 2
    assert out.count("the forkserver can't be reached") == 2


# --- where it finds modules ------------------------------------------------------------

# Says that it was imported from the current folder, and becomes the module that it hides.
DECOY = """
import sys
path, sys.path[:] = sys.path[:], [p for p in sys.path if p not in ("", {folder!r})]
with open({log!r}, "a") as log:
    log.write(__name__ + "\\n")
import _frozen_importlib_external as importer
spec = importer.PathFinder.find_spec(__name__)
__file__, __spec__, __package__ = spec.origin, spec, spec.parent
if spec.submodule_search_locations:
    __path__ = spec.submodule_search_locations
sys.path[:] = path
exec(spec.loader.get_code(__name__))
"""
STARTS = """
import multiprocessing, sys
import wandb_ddp_patch
def work(): pass
if __name__ == "__main__":
    if sys.argv[1] == "forkserver":
        wandb_ddp_patch.warm_up()
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python has no list of its modules")
def test_it_imports_nothing_from_the_current_folder_that_spawn_would_not(run_script, tmp_path):
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    for name in {*sys.stdlib_module_names, "numpy", "torch", "wandb"} - {"antigravity", "this"}:
        spec = importlib.util.find_spec(name)
        if spec is not None and str(spec.origin).endswith(".py"):
            decoy = DECOY.format(folder=str(folder), log=str(log))
            (folder / f"{name}.py").write_text(decoy)
    (tmp_path / "script.py").write_text(STARTS)
    imported = {}
    for method in ("spawn", "forkserver"):
        log.write_text("")
        done = run_script(tmp_path / "script.py", method, cwd=folder)
        assert (done.stdout, done.stderr) == ("0\n", "")
        imported[method] = set(log.read_text().split())
    assert "multiprocessing" in imported["spawn"]  # the decoys are seen
    assert imported["forkserver"] - imported["spawn"] == set()


# --- torch's threads -----------------------------------------------------------------------


@pytest.mark.parametrize(("imported", "threads"), [("torch.set_num_threads(1)", "1"), ("", "3")])
def test_torchs_threads_are_those_of_the_script_where_it_says_so(warm, imported, threads):
    out = warm(
        TOP.format(imported=imported)
        + MAIN
        + "    wandb_ddp_patch.warm_up()\n    os.environ['OMP_NUM_THREADS'] = '3'\n"
        + BOTH,
        imports=TORCH,
        OMP_NUM_THREADS="2",
        **ON,
    )
    assert out == f"forked {threads}\n" * 2


# --- whose code a file is --------------------------------------------------------------------


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="this Python has no other environment")
def test_workers_of_a_torch_that_pythonpath_leads_to_are_forked(fresh):
    import torch

    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info[1]}")
    path = clean_env()["PYTHONPATH"], str(Path(torch.__file__).parents[1])
    script = TOP.format(imported="import wandb") + MAIN + BOTH
    out = fresh(script, python=str(python), PYTHONPATH=os.pathsep.join(path), **ON)
    assert [line.split()[0] for line in out.splitlines()] == ["forked"] * 2
