"""One run on several machines: what arrives, and what happens when something fails.

Machines are namespaces of this one: see machines.py.
"""

import collections
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import machine_roles
import pytest
from conftest import ROOT
from limits import AT_ONCE_SECONDS, HANG_SECONDS, WAIT_SECONDS
from machines import ADDRESSES, machines, permitted  # noqa: F401

from wandb_ddp_patch import runfile

SCRIPT = machine_roles.__file__
nightly = pytest.mark.nightly
OLD = ["0.13.11", "0.16.6", "0.17.9", "0.19.11", "0.21.4", "0.24.2"]
PYTHONS = {"0.24.2": "3.8"}


def rows_in(folder):
    rows = collections.defaultdict(list)
    for file in runfile.find(str(folder)):
        for row in runfile.history(file):
            for key in row:
                rows[key].append(row[key])
    return rows


def numbers(folder, key):
    return [int(value) for value in rows_in(folder)[key]]


def config_in(file):
    config = {}
    for record in runfile.records(file):
        updates = record.run.config.update if record.HasField("run") else record.config.update
        config.update((update.key, json.loads(update.value_json)) for update in updates)
    return {key: value for key, value in config.items() if key and key != "_wandb"}


def ended(*processes):
    for process in processes:
        said = process.communicate(timeout=HANG_SECONDS)[0]
        assert process.returncode == 0, said


def seen(folder, name):
    return json.loads((folder / name).read_text())


def await_file(path):
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize(
    "version",
    [None, "0.18.7", *(pytest.param(version, marks=nightly) for version in OLD)],
)
def test_what_a_run_can_do_on_another_machine(machines, tmp_path, release, version):  # noqa: F811
    python = release(version, PYTHONS.get(version, "3.11")) if version else sys.executable
    env = {"PYTHONWARNINGS": "ignore"}
    owner = machines.start(0, python, SCRIPT, "owner", "worker", **env)
    ended(machines.start(1, python, SCRIPT, "everything", "worker", **env), owner)
    said = seen(tmp_path, "worker")

    assert said["metadata"] == ["p", 0.1, True]
    assert said["globals"] == [True, True, True]
    assert said["config"].startswith("ConfigError: Attempted to change value of key")
    assert said["summary"] == [1, 499]
    assert said["properties"][0] == "new name"
    assert said["artifact"] == "None"
    assert "must be passed a dictionary" in said["no dict"]
    assert said["large"] is said["finish"] is None
    assert "this worker has called finish()" in said["finished"]
    assert said["current"] is True

    (file,) = runfile.find(str(tmp_path))
    assert config_in(file) == {"lr": 8, "new": {"x": 1}, "item": 5}
    rows = rows_in(tmp_path)
    assert [int(n) for n in rows["n"]] == list(range(500))
    assert (rows["a"], rows["again"]) == (["1"], ["1"])
    files = Path(file).parent / "files"
    assert (files / "folder" / "saved.txt").read_text() == "x" * 10
    assert (files / "folder" / "large.bin").stat().st_size == 3_000_000
    assert not (files / "folder" / "saved.txt").is_symlink()
    text = [path.read_text("utf-8") for path in files.glob("media/html/*.html")]
    assert sum("bold" in each for each in text) == 1 and len(text) == 3
    tables = 0 if version == "0.18.7" else 1
    assert len(list(files.glob("media/table/*.json"))) == tables
    left = [path for n in range(2) for path in (tmp_path / f"tmp{n}").glob("wandb_ddp_patch-f*")]
    assert not left
    assert runfile.exit_code(file) in (0, None)
    artifacts = [
        r.artifact for r in runfile.records(file) if r.WhichOneof("record_type") == "artifact"
    ]
    (stuff,) = [artifact for artifact in artifacts if artifact.name == "stuff"]
    entries = {entry.path: entry for entry in stuff.manifest.contents}
    assert sorted(entries) == ["large.bin", "made.txt"]
    assert entries["large.bin"].size == 3_000_000
    # They lie with the run, until it is synced.
    staged = {path: Path(entry.local_path) for path, entry in entries.items()}
    assert all(Path(file).parent / "staged" in path.parents for path in staged.values())
    assert staged["made.txt"].read_text() == "made"
    assert staged["large.bin"].stat().st_size == 3_000_000


ALONE = """
import pickle
import wandb
import wandb_ddp_patch
from wandb_ddp_patch.handover import sharing
said = []
wandb.termwarn = lambda text, **_: said.append(text)
run = wandb.init()
try:
    wandb_ddp_patch.share()
except wandb.errors.UsageError as error:
    said.append(error)
said.append(pickle.loads(sharing._pickle(run, True)))  # of broadcast(), for the other ranks
assert not isinstance(pickle.loads(sharing._pickle(run, False)), Exception)
assert b"token" not in pickle.dumps(run)
run.finish()
print(*said)
"""


@pytest.mark.parametrize(("version", "python"), [("0.12.21", "3.11"), ("0.10.23", "3.9")])
@pytest.mark.parametrize("variable", [None, "1"])
def test_to_0_12_share_says_what_to_do(forked, release, version, python, variable):
    env = {"WANDB_DDP_PATCH_SHARE": variable, "PYTHONWARNINGS": "ignore"}
    said = forked(ALONE, python=release(version, python), quiet=False, **env)
    why = f"runs of wandb {version} can't be shared with other machines: upgrade to wandb 0.13"
    assert said.count(why) == (3 if variable else 2)


def test_workers_of_workers(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "worker")
    ended(machines.start(1, sys.executable, SCRIPT, "forks", "worker"), owner)
    for key, count in {"before": 10, "after": 10, "meanwhile": 100}.items():
        assert numbers(tmp_path, key) == list(range(count))
    for key in ("forked", "spawned"):
        assert numbers(tmp_path, key) == list(range(100))
    assert sorted(numbers(tmp_path, "task")) == list(range(20))


@pytest.mark.parametrize("seconds", [3, pytest.param(10, marks=nightly)])
def test_the_link_is_down(machines, tmp_path, seconds):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "one", "two")
    workers = [
        machines.start(1, sys.executable, SCRIPT, "log", name, 400, 0.01) for name in ("one", "two")
    ]
    await_file(tmp_path / "one.begun")
    machines.wire("cut")
    time.sleep(seconds)
    machines.wire("join")
    ended(owner, *workers)
    for name in ("one", "two"):
        assert numbers(tmp_path, name) == list(range(400))
        assert len(seen(tmp_path, name)) == 1  # nothing was raised


def test_the_link_is_down_for_longer_than_the_limit(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "one")
    env = {"WANDB_DDP_PATCH_SHARE_SECONDS": "1", "WANDB_SILENT": "false"}
    worker = machines.start(1, sys.executable, SCRIPT, "log", "one", 2000, 0.01, **env)
    await_file(tmp_path / "one.begun")
    machines.wire("cut")
    said = worker.communicate(timeout=HANG_SECONDS)[0]
    assert worker.returncode == 0, said
    why = f"its owner has not answered at {ADDRESSES[0]}, port"
    errors = seen(tmp_path, "one")
    assert why in errors[0] and "within 1 s" in errors[0] and why in errors[1]
    arrived = len(errors) and said.split("The last ")[1].split(" message(s) of this worker")[0]
    assert int(arrived) > 0 and "may be lost: its owner has not answered" in said
    machines.wire("join")
    ended(owner)
    rows = numbers(tmp_path, "one")
    assert rows == list(range(len(rows))) and len(rows) > 5


@nightly
@pytest.mark.parametrize(("delay", "loss"), [(0.05, 0.0), (0.025, 0.02)])
def test_a_line_that_is_slow_and_loses_packets(machines, tmp_path, delay, loss):  # noqa: F811
    machines.wire(f"delay {delay}")
    machines.wire(f"loss {loss}")
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "one", "two")
    workers = [
        machines.start(1, sys.executable, SCRIPT, "log", name, 20_000) for name in ("one", "two")
    ]
    ended(owner, *workers)
    for name in ("one", "two"):
        assert numbers(tmp_path, name) == list(range(20_000))


def test_a_worker_is_killed(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "two")
    killed = machines.start(1, sys.executable, SCRIPT, "log", "one", 100_000, 0.001)
    other = machines.start(1, sys.executable, SCRIPT, "log", "two", 300, 0.005)
    await_file(tmp_path / "one.begun")
    time.sleep(1)  # what it has logged so far is on its way, in its own memory: that dies with it
    os.killpg(killed.pid, signal.SIGKILL)
    ended(other)
    begun = time.monotonic()
    ended(owner)
    assert time.monotonic() < begun + AT_ONCE_SECONDS
    rows = numbers(tmp_path, "one")
    assert rows == list(range(len(rows))) and len(rows) > 5
    assert numbers(tmp_path, "two") == list(range(300))


def test_the_owner_is_killed(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "never")
    worker = machines.start(1, sys.executable, SCRIPT, "log", "one", 100_000, 0.001)
    await_file(tmp_path / "one.begun")
    os.killpg(owner.pid, signal.SIGKILL)
    ended(worker)
    first, second, took = seen(tmp_path, "one")
    assert first == second
    assert f"connections to {ADDRESSES[0]}, port" in first and "are refused: the process" in first
    assert took < AT_ONCE_SECONDS


def test_the_owner_finishes_first(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner_that_finishes", "one.begun")
    worker = machines.start(1, sys.executable, SCRIPT, "log", "one", 100_000, 0.001)
    ended(owner, worker)
    first, second, took = seen(tmp_path, "one")
    assert first == second and "has finished it" in first
    assert took < AT_ONCE_SECONDS
    # What the worker had logged when the owner called finish() has arrived.
    rows = numbers(tmp_path, "one")
    assert rows == list(range(len(rows))) and len(rows) > 5


@pytest.mark.parametrize("seconds", [3, pytest.param(25, marks=nightly)])
def test_the_owner_is_stopped(machines, tmp_path, seconds):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner", "one")
    worker = machines.start(1, sys.executable, SCRIPT, "log", "one", 400, 0.005)
    await_file(tmp_path / "one.begun")
    os.killpg(owner.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.killpg(owner.pid, signal.SIGCONT)
    ended(owner, worker)
    assert numbers(tmp_path, "one") == list(range(400))
    assert len(seen(tmp_path, "one")) == 1


def test_two_runs_and_strangers(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "two_owners", "one", "two")
    shares = []
    for name in ("run.pkl", "two.pkl"):
        await_file(tmp_path / name)
        shares.append(machine_roles.load(str(tmp_path / name))["run"]._ddp_state.payload["share"])
    ports = [str(share["port"]) for share in shares]
    strangers = machines.start(1, sys.executable, "-c", STRANGERS, *ports)
    assert strangers.stdout.readline() == "there\n"
    workers = [
        machines.start(1, sys.executable, SCRIPT, "log", *arguments)
        for arguments in (("one", 1000, 0, "run.pkl"), ("two", 1000, 0, "two.pkl"))
    ]
    ended(owner, *workers)
    by_file = []
    for file in runfile.find(str(tmp_path)):
        by_file.append({key for row in runfile.history(file) for key in row if key[0] != "_"})
    assert sorted(map(sorted, by_file)) == [["one"], ["two"]]
    assert numbers(tmp_path, "one") == numbers(tmp_path, "two") == list(range(1000))


STRANGERS = f"""
import socket, sys, time
for port in range(1, 2000):  # a scan
    with socket.socket() as asking:
        asking.connect_ex(("{ADDRESSES[0]}", port))
held = []
for port in sys.argv[1:]:
    for n in range(200):
        held.append(socket.create_connection(("{ADDRESSES[0]}", int(port))))
    socket.create_connection(("{ADDRESSES[0]}", int(port))).close()
print("there", flush=True)
time.sleep(600)
"""


def test_the_owner_is_reached_by_another_address(machines, tmp_path):  # noqa: F811
    """As behind a translated address: a relay at an address that is not the owner's."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    relay = machines.start(1, sys.executable, "-c", RELAY, str(port))
    assert relay.stdout.readline() == "there\n"
    owner = machines.start(0, sys.executable, SCRIPT, "owner_at", ADDRESSES[1], port, "one")
    ended(machines.start(1, sys.executable, SCRIPT, "log", "one", 500), owner)
    assert numbers(tmp_path, "one") == list(range(500))


RELAY = f"""
import socket, sys, threading
port = int(sys.argv[1])
here = socket.create_server(("{ADDRESSES[1]}", port))
print("there", flush=True)
def carry(one, two):
    while data := one.recv(65536):
        two.sendall(data)
    two.shutdown(socket.SHUT_WR)
while True:
    near, there = here.accept()[0], socket.create_connection(("{ADDRESSES[0]}", port))
    for pair in ((near, there), (there, near)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
"""


def test_nobody_is_at_the_address_and_the_owner_lives(machines, tmp_path):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "owner_at", ADDRESSES[1], 4000, "one")
    ended(machines.start(1, sys.executable, SCRIPT, "log", "one", 5), owner)
    first, second, _ = seen(tmp_path, "one")
    assert first == second and "has ended" not in first
    assert f"connections to {ADDRESSES[1]}, port 4000 are refused" in first


LOOPBACK = ["127.0.1.1 node0"]  # as Debian has a machine's own name


@pytest.mark.parametrize("by", ["host", "MASTER_ADDR", "SLURMD_NODENAME"])
def test_a_machines_own_name_is_a_loopback_address_there(machines, tmp_path, by):  # noqa: F811
    env = {} if by == "host" else {by: "node0"}
    role = ["owner_at", "node0", 0] if by == "host" else ["owner"]
    owner = machines.start(0, sys.executable, SCRIPT, *role, "one", hosts=LOOPBACK, **env)
    ended(machines.start(1, sys.executable, SCRIPT, "log", "one", 50, hosts=LOOPBACK), owner)
    assert numbers(tmp_path, "one") == list(range(50))


@pytest.mark.parametrize("by", ["host", pytest.param("MASTER_ADDR", marks=nightly)])
def test_that_name_is_known_elsewhere_and_there_is_no_way_out(machines, tmp_path, by):  # noqa: F811
    route = ["ip", "-n", machines.names[0], "route", "delete", "default"]
    subprocess.run(route, check=True)
    env = {} if by == "host" else {by: "node0"}
    role = ["owner_at", "node0", 0] if by == "host" else ["owner"]
    owner = machines.start(0, sys.executable, SCRIPT, *role, "one", hosts=LOOPBACK, **env)
    known = [f"{ADDRESSES[0]} node0"]
    ended(machines.start(1, sys.executable, SCRIPT, "log", "one", 50, hosts=known), owner)
    assert numbers(tmp_path, "one") == list(range(50))


def test_a_name_with_two_families(machines, tmp_path):  # noqa: F811
    for n, name in enumerate(machines.names, 1):
        address = ["address", "add", f"fd77::{n}/64", "dev", "eth0", "nodad"]
        subprocess.run(["ip", "-n", name, *address], check=True)
    names = [f"{address} node0" for address in (ADDRESSES[0], "fd77::1")]
    role = ["owner_at", "node0", 0, "0", "1"]
    owner = machines.start(0, sys.executable, SCRIPT, *role, hosts=names)
    workers = [
        machines.start(1, sys.executable, SCRIPT, "log", n, 50, hosts=[name])
        for n, name in enumerate(names)
    ]
    ended(owner, *workers)
    assert numbers(tmp_path, "0") == numbers(tmp_path, "1") == list(range(50))


@pytest.mark.parametrize("told", ["1", ADDRESSES[0], "0.0.0.0", "[::]:4000"])
def test_a_variable_shares_the_run_of_an_unchanged_script(machines, tmp_path, told):  # noqa: F811
    owner = machines.start(0, sys.executable, SCRIPT, "unchanged", WANDB_DDP_PATCH_SHARE=told)
    ended(machines.start(1, sys.executable, SCRIPT, "log", "one", 100), owner)
    assert numbers(tmp_path, "one") == list(range(100))


def ranks(start, address):
    env = {"MASTER_ADDR": address, "MASTER_PORT": "29511", "WORLD_SIZE": "2"}
    env["GLOO_SOCKET_IFNAME"] = "eth0"
    return [start(n, sys.executable, SCRIPT, "rank", RANK=str(n), **env) for n in range(2)]


def check_ranks(folder, shared):
    for n in range(2):
        said = seen(folder, f"rank{n}")
        assert said[0].startswith("UsageError: there is no run")
        assert said[1:] == [n == 0, True, shared]
        assert numbers(folder, f"rank {n}") == list(range(50))


@nightly
def test_broadcast_over_machines(machines, tmp_path):  # noqa: F811
    ended(*ranks(machines.start, ADDRESSES[0]))
    check_ranks(tmp_path, shared=True)


@nightly
def test_broadcast_from_a_machine_whose_name_is_a_loopback_address(machines, tmp_path):  # noqa: F811
    def start(n, *command, **env):
        hosts = [LOOPBACK, [f"{ADDRESSES[0]} node0"]][n]
        return machines.start(n, *command, hosts=hosts, **env)

    ended(*ranks(start, "node0"))
    check_ranks(tmp_path, shared=True)


@nightly
def test_broadcast_on_one_machine_opens_nothing(machines, tmp_path):  # noqa: F811
    ended(*ranks(lambda n, *command, **env: machines.start(0, *command, **env), ADDRESSES[0]))
    check_ranks(tmp_path, shared=False)


@nightly
@pytest.mark.parametrize("arguments", [[], ["--cut", "10"]])
def test_torchrun_on_two_machines(run_script, tmp_path, arguments):
    why = permitted()
    if why:
        pytest.skip(why)
    script = str(ROOT / "examples" / "nodes.py")
    done = run_script(script, *arguments, env={"TMPDIR": str(tmp_path)})
    counted = re.findall(r"rank (\d): (\d+) of (\d+) rows", done.stdout)
    assert [rank for rank, _, _ in counted] == list("0123")
    assert all(came == logged for _, came, logged in counted)
