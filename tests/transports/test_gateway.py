"""What a worker elsewhere may do to a run's owner: a real run, a real service, raw messages."""

import hashlib
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import raw_worker
import wandb
from limits import WAIT_SECONDS
from raw_worker import RawWorker
from wandb.proto import wandb_internal_pb2 as internal
from wandb.proto import wandb_server_pb2 as server

import wandb_ddp_patch
from wandb_ddp_patch import _lifecycle, runfile
from wandb_ddp_patch.errors import FINISHED
from wandb_ddp_patch.probes import offline_run
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports.remote import gateway, received_files, records
from wandb_ddp_patch.tunnel import event_loop

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def shared(run):
    wandb_ddp_patch.share(run, host="127.0.0.1")
    return state.get_state(run)


@pytest.fixture
def worker(shared):
    worker = RawWorker(shared.key, shared.share)
    yield worker
    worker.close()


def logged(run, key):
    return run.summary.get(key)


def wait_for(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_and_questions_reach_the_service(run, worker):
    worker.ask(raw_worker.attach(run.id))
    for n in range(50):
        worker.send(raw_worker.row(run.id, raw=n))
    answer = worker.ask(raw_worker.summary(run.id))
    items = answer.result_communicate.response.get_summary_response.item
    assert {item.key: item.value_json for item in items}["raw"] == "49"
    assert logged(run, "raw") == 49


def test_an_owner_whose_tunnels_hang_finishes_all_the_same(run, worker, monkeypatch):
    worker.ask(raw_worker.attach(run.id))
    warned = []
    monkeypatch.setattr(_lifecycle, "termwarn", warned.append)
    monkeypatch.setattr(gateway, "_DRAIN_SECONDS", 0.2)
    event_loop.get().call_soon_threadsafe(time.sleep, 5)
    run.finish()
    wait_for(lambda: runfile.exit_code(offline_run.run_path(run)) == 0)
    assert warned == [
        "1 worker(s) did not answer when the run was finished: the last rows that they logged may"
        " be lost."
    ]


def test_the_api_key_is_in_nothing_that_a_worker_is_sent(run_prepared):
    """In a process of its own: the key is in its environment from the start."""
    script = Path(raw_worker.__file__)
    env = {"WANDB_API_KEY": KEY}
    done = run_prepared("-c", SHARES_WITH_A_KEY, script.parent, env=env)
    assert done.stdout.split() == ["True", "False", "False", "True"]


SHARES_WITH_A_KEY = """
import asyncio, os, sys, wandb, wandb_ddp_patch, pickle
sys.path.append(sys.argv[1])
import raw_worker
from wandb_ddp_patch.runs import state
run = wandb.init(project="p")
wandb_ddp_patch.share(run, host="127.0.0.1")
key = os.environ["WANDB_API_KEY"].encode()
# W&B's own service sends it to whoever attaches.
async def directly():
    token = state.get_state(run).service
    path = token.partition("-unix-")[2]
    reader, writer = await asyncio.open_unix_connection(path)
    from wandb_ddp_patch.transports.remote import wandb_protocol
    writer.write(wandb_protocol.frame(raw_worker.attach(run.id).SerializeToString()))
    return await reader.read(1 << 20)
print(key in asyncio.run(directly()))
worker = raw_worker.RawWorker(state.get_state(run).key, state.get_state(run).share)
answer = worker.ask(raw_worker.attach(run.id))
print(key in worker.bytes, key in pickle.dumps(run))
print(answer.inform_attach_response.settings.run_id.value == run.id)
worker.close()
run.finish()
"""


def refused(worker, request):
    worker.send(request)
    return worker.wait(records.REFUSED).decode()


def record_of(run_id, **fields):
    record = internal.Record(**fields)
    record._info.stream_id = run_id
    return server.ServerRequest(record_publish=record)


def test_what_a_worker_may_not_say_is_refused_and_the_run_goes_on(run, worker):
    run.log({"mine": 1})
    for request in (
        raw_worker.row("another", raw=1),
        record_of(run.id, exit=internal.RunExitRecord(exit_code=1)),
        record_of(run.id, final=internal.FinalRecord()),
        record_of("another", history=internal.HistoryRecord()),
        raw_worker.files(run.id, "../outside"),
        raw_worker.files(run.id, "/etc/passwd"),
    ):
        assert "is refused" in refused(worker, request), request
    unknown = raw_worker.row(run.id, raw=1).SerializeToString() + b"\xfa\x3f\x01x"
    worker.say(records.MESSAGE, unknown)
    assert "is refused" in worker.wait(records.REFUSED).decode()
    worker.send(raw_worker.row(run.id, raw=7))
    worker.ask(raw_worker.summary(run.id))
    assert (logged(run, "raw"), logged(run, "mine")) == (7, 1)


@pytest.mark.parametrize("kind", ["inform_teardown", "inform_detach"])
def test_teardown_ends_the_workers_tunnel_and_not_the_service(run, shared, worker, kind):
    request = server.ServerRequest()
    if not hasattr(request, kind):
        pytest.skip("this release of wandb has no such message")
    getattr(request, kind).SetInParent()
    worker.send(request)
    assert worker.wait(records.CLOSED) == b""
    run.log({"after": 1})
    other = RawWorker(shared.key, shared.share)
    other.send(raw_worker.row(run.id, raw=3))
    other.ask(raw_worker.summary(run.id))
    assert (logged(run, "after"), logged(run, "raw")) == (1, 3)
    other.close()


def test_what_is_no_message_ends_that_tunnel_alone(run, shared, worker):
    worker.say(records.MESSAGE, b"\xff" * 100)
    assert b"can't read a message" in worker.wait(records.CLOSED)
    run.log({"after": 1})
    assert logged(run, "after") == 1


# --- files ---------------------------------------------------------------------------


def send_file(worker, kind, name, content, digest=None):
    worker.say(records.FILE, kind + name.encode())
    for at in range(0, len(content), 1000):
        worker.say(records.DATA, content[at : at + 1000])
    worker.say(records.END, digest or hashlib.sha256(content).digest())


def settled(worker, run):
    worker.ask(raw_worker.summary(run.id))


def test_a_file_lands_below_the_runs_folder_and_nowhere_else(run, worker, tmp_path):
    folder = Path(run.dir)
    send_file(worker, b"R", "media/images/one.png", b"x" * 5000)
    settled(worker, run)
    assert (folder / "media" / "images" / "one.png").read_bytes() == b"x" * 5000
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", folder / "link")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for name in ("../one", "/tmp/one", "link/one", "a/../../one", "", "output.log"):
        send_file(worker, b"R", name, b"y")
        assert "is missing in the run" in worker.wait(records.REFUSED).decode()
    settled(worker, run)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_a_file_of_the_owners_is_not_written_through_a_link(run, worker, tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.symlink(tmp_path / "precious", Path(run.dir) / "precious")
    send_file(worker, b"R", "precious", b"theirs")
    settled(worker, run)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (Path(run.dir) / "precious").read_bytes() == b"theirs"


def test_a_file_that_was_changed_on_its_way_is_no_file(run, worker):
    send_file(worker, b"R", "changed.txt", b"x" * 10, digest=b"?" * 32)
    assert "did not arrive complete" in worker.wait(records.REFUSED).decode()
    settled(worker, run)
    assert not (Path(run.dir) / "changed.txt").exists()


def test_a_staged_file_has_a_name_of_the_owners(run, worker):
    send_file(worker, b"S", "/home/user/../../etc/passwd", b"harmless")
    settled(worker, run)
    (staged,) = (path for path in (Path(run.dir).parent / "staged").rglob("*") if path.is_file())
    assert staged.read_bytes() == b"harmless" and staged.name.endswith("passwd")


def test_a_cleaner_costs_the_files_that_it_takes_and_no_more(run, worker):
    send_file(worker, b"S", "one", b"1")
    settled(worker, run)
    for path in sorted((Path(run.dir).parent / "staged").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    send_file(worker, b"S", "two", b"2")
    settled(worker, run)
    staged = [path for path in (Path(run.dir).parent / "staged").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in staged] == [b"2"]


def test_a_full_disk_costs_that_file_and_says_so(run, worker, monkeypatch):
    real = received_files.open_new

    def full(path):
        if path.endswith("large"):
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(received_files, "open_new", full)
    send_file(worker, b"R", "large", b"x" * 5000)
    send_file(worker, b"R", "small", b"x")
    said = worker.wait(records.REFUSED).decode()
    assert "the file large is missing in the run" in said and "No space left" in said
    settled(worker, run)
    assert (Path(run.dir) / "small").exists() and not (Path(run.dir) / "large").exists()


# --- the end -------------------------------------------------------------------------


def test_the_owner_waits_for_what_was_logged_when_it_finishes(run, shared, worker):
    worker.ask(raw_worker.attach(run.id))
    ends = threading.Thread(target=run.finish)
    ends.start()
    worker.wait(records.DRAIN)
    for n in range(100):
        worker.send(raw_worker.row(run.id, late=n))
    worker.say(records.DRAINED)
    ends.join(WAIT_SECONDS)
    assert not ends.is_alive()
    assert worker.wait(records.CLOSED).decode() == FINISHED
    # A message that comes after the end is not let through.
    worker.send(raw_worker.row(run.id, later=1))
    other = RawWorker(shared.key, shared.share)
    assert other.wait(records.CLOSED).decode() == FINISHED
    other.close()


def test_a_worker_that_connects_while_the_run_ends_is_asked_as_well(run, shared, worker):
    worker.ask(raw_worker.attach(run.id))
    worker.send(raw_worker.row(run.id, first=1))
    ends = threading.Thread(target=run.finish)
    ends.start()
    worker.wait(records.DRAIN)
    late = RawWorker(shared.key, shared.share)
    late.send(raw_worker.row(run.id, late=1))
    late.wait(records.DRAIN)
    late.say(records.DRAINED)
    worker.say(records.DRAINED)
    ends.join(WAIT_SECONDS)
    assert late.wait(records.CLOSED).decode() == FINISHED
    late.close()


def test_a_payload_names_the_owners_release(run, shared):
    assert shared.share["wandb_version"] == wandb.__version__
    assert shared.share["token"] in pickle.dumps(run)


def test_a_service_by_the_name_of_a_host_is_found_while_the_owner_ends(run_prepared):
    """As those up to 0.19 are, and no thread can be started any more that looks up the name."""
    done = run_prepared("-c", ENDS_AS_A_WORKER_COMES, Path(raw_worker.__file__).parent)
    assert done.stdout.split() == ["no-threads", "7"], done.stderr


# Passes one connection on from a port to a Unix socket.
RELAY = """
import select, socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    near, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
far.connect(sys.argv[1])
while True:
    for source in select.select([near, far], [], [])[0]:
        data = source.recv(65536)
        if not data:
            sys.exit()
        (far if source is near else near).sendall(data)
"""

ENDS_AS_A_WORKER_COMES = f"""
import atexit, concurrent.futures, subprocess, sys, wandb, wandb_ddp_patch
sys.path.append(sys.argv[1])
import raw_worker
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports.remote import shared_runs
run = wandb.init(project="p")
wandb_ddp_patch.share(run, host="127.0.0.1")
owned = state.get_state(run)
path = owned.service.partition("-unix-")[2]
relay = subprocess.Popen([sys.executable, "-c", {RELAY!r}, path], stdout=subprocess.PIPE)
[shared] = shared_runs._gateway.runs.values()
shared.service = "2-1-tcp-localhost-" + relay.stdout.readline().decode().strip()
pool = concurrent.futures.ThreadPoolExecutor()
def come():
    try:
        pool.submit(bool)
    except RuntimeError:
        print("no-threads")
    worker = raw_worker.RawWorker(owned.key, owned.share)
    worker.ask(raw_worker.attach(run.id))
    worker.send(raw_worker.row(run.id, raw=7))
    worker.ask(raw_worker.summary(run.id))
    print(run.summary["raw"])
    worker.close()
atexit.register(come)
"""
