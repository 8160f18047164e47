"""The owner's file is removed, cut short, or can't be seen: that proves nothing."""

import ctypes
import os
import subprocess
import sys
import tempfile

import pytest

from wandb_ddp_patch import _process
from wandb_ddp_patch.runs import liveness

CODE = """
import multiprocessing, os, tempfile, time, wandb, wandb_ddp_patch, pickle
from wandb_ddp_patch.runs import state

def log(run, name):
    run.log({name: 1})
    return run.summary[name]

def log_twice(run, name, logged, cleaned, queue):
    log(run, name)
    logged.set()
    cleaned.wait()
    queue.put(log(run, name + ", again"))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(1)
    run = wandb.init(mode="offline", project="p")
    before = pickle.dumps(run)
    path = state.get_state(run).owner_file
    logged, cleaned, queue = context.Event(), context.Event(), context.Queue()
    worker = context.Process(target=log_twice, args=(run, "old", logged, cleaned, queue))
    worker.start()
    logged.wait()
    CLEAN
    cleaned.set()
    print(queue.get())
    worker.join()
    # A worker that gets what was pickled before, and one that gets it anew.
    print(pool.apply(log, (pickle.loads(before), "before")), os.path.exists(path))
    print(pool.apply(log, (run, "after")))
    context2 = multiprocessing.get_context("fork")
    queue = context2.SimpleQueue()
    child = context2.Process(target=lambda: queue.put(log(run, "fork")))
    child.start()
    print(queue.get())
    child.join()
    pool.close()
    pool.join()
    run.finish()
"""
CLEANERS = {
    "removed": "os.unlink(path)",
    "cut short": "os.truncate(path, 0)",
    "a link instead": "os.unlink(path); os.symlink('/etc/hostname', path)",
    "a folder instead": "os.unlink(path); os.mkdir(path)",
    "find, as cleaners do": "import subprocess; subprocess.run(['find', os.path.dirname(path),"
    " '-maxdepth', '1', '-name', 'wandb_ddp_patch-*', '-delete'])",
}


@pytest.mark.parametrize("how", CLEANERS)
def test_workers_go_on_when_a_cleaner_has_been(forked, tmp_path, how):
    folder = tmp_path / "temporary"
    folder.mkdir()
    code = CODE.replace("CLEAN", CLEANERS[how])
    out = forked(code, quiet=False, TMPDIR=str(folder))
    there = how in ("cut short", "removed", "find, as cleaners do")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["1"] * 4
    if there:
        assert lines[1] == "1 True"  # put back when it was handed out again


def test_a_later_owner_sweeps_what_killed_ones_have_left(fresh, tmp_path):
    left = tmp_path / ("wandb_ddp_patch-" + "0" * 32)
    left.write_bytes(bytes(10))
    os.utime(left, (0, 0))
    strange = tmp_path / "wandb_ddp_patch-strange"
    strange.write_bytes(b"")
    os.utime(strange, (0, 0))
    link = tmp_path / ("wandb_ddp_patch-" + "1" * 32)
    link.symlink_to(strange)
    fresh(
        "from wandb_ddp_patch.runs import liveness; liveness.ensure_owner_file()",
        TMPDIR=str(tmp_path),
    )
    assert not left.exists()
    assert strange.exists() and link.is_symlink()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are told on Linux only")
def test_a_process_is_known_by_more_than_its_number():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = _process.process_fingerprint(child.pid)
    assert known and not _process.has_exited(known)
    boot, namespace, pid, start = known.split(" ")
    assert _process.has_exited(f"{boot} {namespace} {pid} {int(start) - 1}")  # another one
    assert not _process.has_exited(f"other {namespace} {pid} 1")  # on another machine
    assert not _process.has_exited(None)
    child.communicate(b"\n")
    assert _process.has_exited(known)


# A namespace of mounts, and one of processes, for /proc to hide them from nobody else.
APART = ["unshare", "--mount", "--pid", "--fork"]
MOUNT = ["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"]
HIDES = """
import os, subprocess, sys
from wandb_ddp_patch import _process

subprocess.run(sys.argv[1:], check=True)
owner = subprocess.Popen(["sleep", "600"])
known = _process.process_fingerprint(owner.pid)

def ask_as_another_user():
    if os.fork() == 0:
        os.setgid(65534)
        os.setuid(65534)
        print(os.path.exists(f"/proc/{owner.pid}"), _process.has_exited(known), flush=True)
        os._exit(0)
    os.wait()

ask_as_another_user()
owner.kill()
owner.wait()
ask_as_another_user()
"""


def can_hide_processes():
    try:
        return subprocess.run([*APART, *MOUNT], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_hide_processes(), reason="needs namespaces and /proc: Linux, root")
def test_a_process_that_the_system_hides_from_other_users_has_not_ended(run_script):
    """Its worker, by another user, was told that the run is finished, and tried no tunnel."""
    done = run_script(HIDES, *MOUNT, before=APART)
    assert done.stdout.splitlines() == ["False False", "False True"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library")
def test_workers_are_told_of_the_end_also_while_the_lock_is_held(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(liveness, "_own", None)
    path = liveness.ensure_owner_file()
    watch = liveness.OwnerWatch(path, "some run")
    assert not watch.is_finished()
    # By C, as other languages' libraries fork: Python's hooks do not let go of the file.
    child = ctypes.CDLL(None).fork()
    if child == 0:
        while True:
            os.read(0, 0) or os.sched_yield()
    try:
        liveness.mark_all_finished()
        assert watch.is_finished()
        assert not os.listdir(tmp_path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_worker_knows_of_the_end_in_time_also_where_clocks_are_coarse(fresh, tmp_path):
    """Up to Python 3.12, those of Windows step by 15.6 ms."""
    fresh(
        """
        import time, types

        STEP, now = 1 / 64, 100.0
        time.get_clock_info = lambda name: types.SimpleNamespace(resolution=STEP)
        time.monotonic = lambda: now // STEP * STEP

        def sleep(seconds):
            global now
            now += seconds

        time.sleep = sleep
        from wandb_ddp_patch.runs import liveness

        path = liveness.ensure_owner_file()
        for n in range(64):
            now = 100 + n + n * STEP / 64
            watch = liveness.OwnerWatch(path, f"run {n:02}")
            assert not watch.is_finished()
            liveness.mark_finished(f"run {n:02}")
            assert watch.is_finished(), n
        """,
        TMPDIR=str(tmp_path),
    )
