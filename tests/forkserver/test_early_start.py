"""What gets ready for the first start in the background: it is used, or nothing is left of it."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import clean_env
from processes import alive

from wandb_ddp_patch.forkserver import early_messages, early_signs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")
NIGHTLY = pytest.mark.nightly
ON = {"WANDB_DDP_PATCH_SPAWN": "forkserver"}
TOP = """
import multiprocessing, os, sys, time, warnings
import torch, wandb
import torch.multiprocessing as mp
from pathlib import Path

def others():
    # The forkservers, and what will be one, that this process has started and not collected.
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = {int(n): Path(f"/proc/{n}/cmdline").read_bytes() for n in children}
    return [n for n, line in found.items() if not line or b"forkserver" in line]

def work(rank, prepared=(), *more):
    how = "spawned" if os.getppid() == multiprocessing.parent_process().pid else "forked"
    if os.getppid() in prepared:
        how = "prepared"
    print(how, torch.get_num_threads(), *map(os.environ.get, more), flush=True)
"""
MAIN = """
if __name__ == "__main__":
"""
SPAWN = "    mp.spawn(work, (others(),))\n"


@pytest.mark.parametrize(
    ("imported", "called", "env"),
    [
        ("import wandb_ddp_patch", "mp.spawn", ON),
        ("from wandb_ddp_patch import spawn", "spawn", {}),
        pytest.param("import wandb_ddp_patch", "wandb_ddp_patch.spawn", {}, marks=NIGHTLY),
        pytest.param("import wandb_ddp_patch as w", "w.use_forkserver(); mp.spawn", {}),
    ],
)
def test_a_first_start_finds_a_process_that_is_ready(fresh, imported, called, env):
    # What a script does in between: it starts a run, and sets variables.
    script = TOP + imported + MAIN + "    run = wandb.init(project='p')\n    prepared = others()\n"
    script += "    os.environ.update(MASTER_PORT='1', MINE='mine')\n    from tqdm import tqdm\n"
    script += f"    {called}(work, (prepared, 'MASTER_PORT', 'MINE'), 2)\n"
    script += "    print(len(prepared), others() == prepared)\n    run.finish()\n"
    out = fresh(script, OMP_NUM_THREADS="1", **env)
    assert out == "prepared 1 1 mine\n" * 2 + "1 True\n"


CHANGES = [
    ("os.environ['OMP_NUM_THREADS'] = '1'", "forked 1"),  # which C code reads
    ("os.environ['COMPILE_STROBELIGHT_SAMPLE_RATE'] = '9'", "forked 2"),  # which torch reads
    ("os.nice(1)", "forked 2"),
    ("os.dup2(os.open('out', os.O_CREAT | os.O_WRONLY), 0)", "prepared 2"),
    ("os.close(0)", "forked 2"),
    ("sys.modules['numpy'].__file__ = 'elsewhere'", "forked 2"),
    ("multiprocessing.set_start_method('forkserver')", "prepared 2"),
    ("os.kill(others()[0], 9)", "forked 2"),
    ("os.kill(others()[0], 9); time.sleep(1)", "forked 2"),
]


@pytest.mark.parametrize(
    ("change", "expected"),
    [*CHANGES[:2], *(pytest.param(*case, marks=NIGHTLY) for case in CHANGES[2:])],
)
def test_what_no_longer_fits_is_replaced_without_a_word(fresh, change, expected):
    script = TOP + "import wandb_ddp_patch" + MAIN + "    prepared = others()\n"
    script += f"    {change}\n    mp.spawn(work, (prepared,))\n"
    script += "    print(len(prepared), len(others()))\n"
    assert fresh(script, OMP_NUM_THREADS="2", **ON) == f"{expected}\n1 1\n"


def test_what_the_script_sets_before_it_imports_torch_is_seen(fresh):
    # In workers only, so that what was prepared can't know.
    first = "import os\nif __name__ != '__main__': os.environ['OMP_NUM_THREADS'] = '1'\n"
    script = first + TOP + "from wandb_ddp_patch import spawn" + MAIN
    script += "    os.environ.pop('OMP_NUM_THREADS')\n    spawn(work, (others(),))\n"
    assert fresh(script, OMP_NUM_THREADS="2") == "forked 1\n"


def test_a_library_that_fails_only_there_fails_silently(fresh, tmp_path):
    (tmp_path / "tqdm.py").write_text(
        "import os, sys\nif any('early_server' in n for n in sys.modules):\n    os._exit(3)\n"
    )
    script = TOP + "import wandb_ddp_patch, tqdm" + MAIN
    script += "    import colorsys, wave\n" + SPAWN + "    print(len(others()))\n"
    assert fresh(script, OMP_NUM_THREADS="1", **ON) == "forked 1\n1\n"


ENDS = {
    "pass": 0,
    "sys.exit(3)": 3,
    "os._exit(4)": 4,
    "os.kill(os.getpid(), 9)": -signal.SIGKILL,
    "os.kill(os.getpid(), 2); time.sleep(99)": -signal.SIGINT,
    "os.execv('/bin/true', ['true'])": 0,
}


@pytest.mark.parametrize("imported", ["", "os.path.exists('wait') and time.sleep(5)"])
@pytest.mark.parametrize("end", ENDS)
def test_in_vain_nothing_is_left(tmp_path, end, imported):
    if imported and end != "pass":
        pytest.skip("it has imported all by then, and the way makes no difference")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (tmp_path / "wait").touch()
    script = TOP + "import wandb_ddp_patch\n" + imported + MAIN
    script += f"    print(*others(), flush=True)\n    {end}\n"
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=clean_env(TMPDIR=str(temporary), **ON),
        capture_output=True,
        text=True,
    )
    (pid,) = done.stdout.split()
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    # Two folders are wandb's own, which it leaves there where the script is killed.
    left = 2 if end.startswith(("os._exit", "os.kill(os.getpid(), 9)", "os.exec")) else 0
    assert len(os.listdir(temporary)) == left
    assert done.returncode == ENDS[end]
    # The script's own traceback, once.
    assert done.stderr.count("Traceback") == done.stderr.count("KeyboardInterrupt\n")
    assert ("2)" in end) == bool(done.stderr)


def test_a_forkserver_of_the_programs_own_is_another(fresh):
    out = fresh(
        TOP
        + "import wandb_ddp_patch"
        + MAIN
        + """
    prepared = others()
    process = multiprocessing.get_context("forkserver").Process(target=work, args=(0, prepared))
    process.start(), process.join()
    print(len(prepared), len(others()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mp.spawn(work, (prepared,))
    print(len(caught), len(others()), prepared[0] in others())
""",
        OMP_NUM_THREADS="1",
        **ON,
    )
    assert out == "forked 1\n1 2\nspawned 1\n1 1 False\n"


def test_forks_leave_it_to_the_process_that_has_it(fresh):
    out = fresh(
        TOP
        + "import wandb_ddp_patch"
        + MAIN
        + """
    prepared = others()
    if not os.fork():
        mp.spawn(work, (prepared,))
        os._exit(0)
    os.wait()
    if not os.fork():
        sys.exit()
    os.wait()
    mp.spawn(work, (prepared,))
""",
        OMP_NUM_THREADS="1",
        **ON,
    )
    assert out == "forked 1\nprepared 1\n"


NONE = [
    ({**ON, "LOCAL_RANK": "0"}, ["script.py"], None),
    ({**ON, "WANDB_DDP_PATCH": "0"}, ["script.py"], None),
    ({}, ["script.py"], None),
    (ON, ["-c", "exec(open('script.py').read())"], None),
    (ON, ["script.py"], {0}),
]


@pytest.mark.parametrize(("env", "command", "processors"), NONE)
def test_where_no_workers_are_to_be_expected_nothing_is_started(
    run_script, tmp_path, env, command, processors
):
    # torch's own spawn, beside this package: no sign of a wish for a forkserver.
    script = TOP + "import wandb_ddp_patch" + MAIN + "    print(others(), mp.spawn)\n"
    (tmp_path / "script.py").write_text(script)
    before = ["taskset", "-c", "0"] if processors else []
    done = run_script(*command, env=env, before=before)
    assert done.stdout.startswith("[] "), done.stdout


def test_workers_start_none(fresh):
    script = TOP.replace("def work", "def count(rank):\n    print(others())\n\ndef work")
    assert fresh(script + MAIN + "    mp.spawn(count)\n", **ON, WANDB_DDP_PATCH="1") == "[]\n"


# --- the parts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from wandb_ddp_patch import spawn", True),
        ("from wandb_ddp_patch import status, spawn as start", True),
        ("from wandb_ddp_patch import use_forkserver", True),
        ("import wandb_ddp_patch\ndef f():\n    wandb_ddp_patch.spawn(f)", True),
        (
            "import wandb_ddp_patch as w\nclass A:\n    def f(self): return w.spawn(f, nprocs=2)",
            True,
        ),
        ("def f():\n    import wandb_ddp_patch as w\n    w.use_forkserver()", True),
        ("import wandb_ddp_patch\nimport torch.multiprocessing as mp\nmp.spawn(f)", False),
        ("from torch.multiprocessing import spawn\nimport wandb_ddp_patch\nspawn(f)", False),
        ("import wandb_ddp_patch\nwandb_ddp_patch.apply()\nspawn = 1", False),
        ("from wandb_ddp_patch import apply\nfrom torch.multiprocessing import spawn", False),
    ],
)
def test_that_a_script_names_spawn_is_read_from_its_code(code, expected):
    assert early_signs._names_spawn(compile(code, "script", "exec")) == expected


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/a/b", {"/sys/fs/cgroup/a/cpu.max": "100000 100000"}, 1),
        ("0::/a/b", {"/sys/fs/cgroup/a/b/cpu.max": "max 100000"}, None),
        ("0::/host", {"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ("0::/", {}, None),
        (
            "4:cpu,cpuacct:/a",
            {
                "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000",
                "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ("3:memory:/a", {"/sys/fs/cgroup/a/cpu.max": "1 1"}, None),
    ],
)
def test_a_limit_of_processors_is_read(monkeypatch, lines, files, expected):
    monkeypatch.setattr(early_signs, "_lines", lambda path: files.get(path, "").splitlines())
    assert early_signs._quota(lines) == expected


def test_a_message_of_any_length_arrives_with_its_files():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        message = {"environ": {"A": "a" * 3_000_000, "B": "\udce4"}}
        read, write = os.pipe()
        early_messages.send(ours, message, [read])
        os.close(read)
        received, (read,) = early_messages.receive(theirs)
        os.write(write, b"x")
        assert (received, os.read(read, 1)) == (message, b"x")
        os.close(read), os.close(write)
        ours.close()
        with pytest.raises(EOFError):
            early_messages.receive(theirs)
