"""A worker that reaches its run by the tunnel, in a process of its own on this machine."""

import json
import os
import pickle

import pytest
import wandb

import wandb_ddp_patch
from wandb_ddp_patch.handover import payload
from wandb_ddp_patch.transports.remote import received_files

WORKER = """
import json, os, pickle, stat, sys, time
import wandb, wandb_ddp_patch
from wandb_ddp_patch import worker
from wandb_ddp_patch.runs import state

def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

with open(sys.argv[1], "rb") as file:
    run = worker.load_run(pickle.load(file))
said = {}
exec(sys.argv[2])
print(json.dumps(said))
"""


@pytest.fixture
def act(run, run_prepared, tmp_path):
    """Run code in a worker; give what it says. ``changes`` are made in the payload."""

    def act(code, share=None, **changes):
        wandb_ddp_patch.share(run, host="127.0.0.1")
        content = {**payload.dump(run), **changes}
        there = {"host_fingerprint": "- - - elsewhere", **(share or {})}
        content["share"] = {**content["share"], **there}
        (tmp_path / "payload").write_bytes(pickle.dumps(content))
        (tmp_path / "worker").mkdir()
        (tmp_path / "tmp").mkdir()
        done = run_prepared(
            *("-c", WORKER, tmp_path / "payload", code),
            cwd=tmp_path / "worker",
            env={"TMPDIR": str(tmp_path / "tmp"), "WANDB_SILENT": "false"},
        )
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return act


def test_it_has_no_key_and_leaves_nothing(run, act, tmp_path):
    said, errors = act("""
run.log({"x": 1, "html": wandb.Html("<b>x</b>")})
said["key"] = run._settings.api_key
said["service"] = os.environ["WANDB_SERVICE"]
path = said["service"].partition("-unix-")[2]
said["modes"] = [oct(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode))] if path else ["0o700"]
said["x"] = run.summary["x"]
run.finish()
""")
    assert said["key"] is None and said["x"] == 1
    assert said["service"] != os.environ["WANDB_SERVICE"] and said["modes"] == ["0o700"]
    assert os.listdir(tmp_path / "worker") == []
    assert [name for name in os.listdir(tmp_path / "tmp") if name.startswith("w")] == []
    assert "may be lost" not in errors
    assert run.summary["x"] == 1


def test_it_attaches_under_the_lock_of_all_transports(act):
    said, _ = act("""
from wandb_ddp_patch.runs import transport
from wandb_ddp_patch.tunnel import client
from wandb_ddp_patch.transports import service_connection, tunnel

held, attach = [], service_connection.use_service
def use_service(*args):
    held.append(transport.connecting._is_owned())
    return attach(*args)
service_connection.use_service = use_service
opened, open_endpoint = [], tunnel.Endpoint.open
def open(endpoint):
    opened.append(transport.connecting._is_owned())
    return open_endpoint(endpoint)
tunnel.Endpoint.open = open
run.log({"x": 1})
said.update(held=held, opened=opened)
""")
    assert said == {"held": [True], "opened": [False]}


def test_another_release_line_is_an_error_that_names_both(run, act):
    said, _ = act('said["log"] = outcome(run.log, {"x": 1})', share={"wandb_version": "0.1.2"})
    assert f"its owner has wandb 0.1.2 and this worker has wandb {wandb.__version__}" in said["log"]
    assert said["log"].startswith("UsageError: ")
    assert "x" not in dict(run.summary)


def test_the_tunnel_is_taken_where_the_service_can_not_be_reached(run, act):
    """As by another user, or in another container, of the same machine."""
    from wandb_ddp_patch._process import host_fingerprint

    code = 'run.log({"x": 5}); said["x"] = run.summary["x"]'
    hidden = {"service": "3-1-unix-/nowhere/socket"}
    said, _ = act(code, share={"host_fingerprint": host_fingerprint()}, **hidden)
    assert said["x"] == 5 and run.summary["x"] == 5


def test_a_call_that_is_refused_raises_once_the_next_one_is_made(run, act):
    said, _ = act("""
run.log({"x": 0})
interface = run._interface
def meaning_another_run(record):
    record._info.stream_id = "another"
assign, type(interface)._assign = type(interface)._assign, (
    lambda self, record: (assign(self, record), meaning_another_run(record))[0])
run.log({"lost": 1})
type(interface)._assign = assign
run.summary["x"]  # until the owner has answered
said["next"] = outcome(run.log, {"x": 1})
said["then"] = outcome(run.log, {"x": 2})
said["finish"] = outcome(run.finish)
""")
    assert said["next"].startswith("UsageError: An earlier call failed: wandb's message")
    assert said["then"] is said["finish"] is None
    assert run.summary["x"] == 2 and "lost" not in dict(run.summary)


def test_a_file_that_is_gone_costs_that_file(run, act):
    said, _ = act("""
open("one.txt", "w").write("1")
open("two.txt", "w").write("2")
artifact = wandb.Artifact("stuff", "dataset")
artifact.add_file("one.txt", policy="immutable")
os.unlink("one.txt")
run.log_artifact(artifact)
said["said"] = [outcome(lambda: run.save("two.txt") and None), outcome(run.log, {"x": 3})]
run.summary["x"]
said["said"].append(outcome(run.finish))
""")
    errors = list(filter(None, said["said"]))  # of the file, and of what names it
    assert errors and all("one.txt" in error for error in errors)
    assert errors[0].startswith("UsageError: An earlier call failed: ")
    assert run.summary["x"] == 3
    assert os.path.exists(os.path.join(run.dir, "two.txt"))


def full_disk(path):
    raise OSError(28, "No space left on device")


def test_a_refusal_that_no_later_call_could_raise_is_told_when_the_worker_ends(
    run, act, monkeypatch
):
    monkeypatch.setattr(received_files, "open_new", full_disk)
    _, errors = act('run.log({"html": wandb.Html("<b>x</b>")})')
    assert errors.count("An earlier call failed: the file media/html/html_") == 1
    assert "is missing in the run: the run's owner can't store it" in errors


def test_finish_raises_all_that_was_refused(act):
    said, errors = act("""
run.log({"x": 1})
state.get_state(run).transport.endpoint.refusals.extend(map(str, range(25)))
said["finish"] = outcome(run.finish)
""")
    told = "; ".join(map(str, range(20)))
    assert said["finish"] == f"UsageError: An earlier call failed: {told}; and 5 more"
    assert "An earlier call failed" not in errors


# A file is long under way: what was logged after it waits for it.
HOLDS_A_FILE = """
import asyncio, threading
from wandb_ddp_patch.errors import FINISHED
from wandb_ddp_patch.transports import service, tunnel
from wandb_ddp_patch.transports.remote import endpoint as endpoints
from wandb_ddp_patch.tunnel import event_loop

gate, send_file = threading.Event(), endpoints.WorkerSession._send_file
async def send_later(session, file):
    while not gate.is_set():
        await asyncio.sleep(0.01)
    await send_file(session, file)
endpoints.WorkerSession._send_file = send_later
run.log({"html": wandb.Html("<b>x</b>")})
run.log({"x": 1})
transport = state.get_state(run).transport
endpoint = transport.endpoint
"""


def test_a_worker_knows_whether_all_was_sent(act):
    said, errors = act(
        HOLDS_A_FILE
        + """
timeout, endpoint.timeout = endpoint.timeout, 0.1
seconds, tunnel._DRAIN_SECONDS = tunnel._DRAIN_SECONDS, 0.1
said["held"] = endpoint.wait_until_sent()
tunnel._DRAIN_SECONDS = seconds
threading.Timer(1, gate.set).start()
said["sent"] = endpoint.wait_until_sent()  # however short the limit for a lost connection is
endpoint.timeout = timeout
run.finish()
said["finished"] = endpoint.wait_until_sent()
"""
    )
    assert said == {"held": False, "sent": True, "finished": True}
    assert "may be lost" not in errors


def test_what_the_owner_has_not_waited_for_is_told(act):
    _, errors = act(
        HOLDS_A_FILE
        + """
wait, asking = endpoint.wait_until_sent, []
def wait_until_sent():
    asking.append(threading.current_thread())
    return wait()
endpoint.wait_until_sent = wait_until_sent
loop = event_loop.get()
loop.call_soon_threadsafe(endpoint.drain, lambda: None)
while not asking:
    time.sleep(0.01)
loop.call_soon_threadsafe(endpoint.end, FINISHED)
asking[0].join()
"""
    )
    assert "may be lost: the process that called wandb.init() has finished it" in errors


def test_a_worker_that_is_interrupted_while_it_waits_says_so(run, act):
    said, errors = act(
        HOLDS_A_FILE
        + """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
ask = service.ServiceBarrier._ask
def interrupt(barrier):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    ask(barrier)
service.ServiceBarrier._ask = interrupt
endpoint.refusals.append("refused")
try:
    run.finish()
except KeyboardInterrupt:
    said["interrupted"] = True
gate.set()
"""
    )
    assert said["interrupted"]
    assert errors.count("may be lost: this worker was interrupted while it waited") == 1
    assert errors.count("An earlier call failed: refused") == 1
    # What could still be sent has not been cut off by the goodbye.
    assert run.summary["x"] == 1 and os.listdir(os.path.join(run.dir, "media", "html"))


def test_tensorboard_says_where_it_works(run, act):
    said, _ = act('said["tb"] = outcome(run._tensorboard_callback, "logs", save=True)')
    assert said["tb"].startswith("UsageError: TensorBoard's files can't be followed")


def test_a_worker_that_ends_by_os_exit_has_sent_its_rows(run, act):
    code = (
        'print(json.dumps(said), flush=True); [run.log({"x": n}) for n in range(500)]; os._exit(0)'
    )
    act(code)
    assert run.summary["x"] == 499


def test_a_cleaner_that_takes_the_socket_costs_nothing(run, act):
    said, _ = act("""
import shutil
run.log({"x": 1})
shutil.rmtree(state.get_state(run).transport.endpoint.folder)
run.log({"html": wandb.Html("<b>x</b>")})
run.finish()
with open(sys.argv[1], "rb") as file:  # as a pool's next task has it
    again = worker.load_run(pickle.load(file))
again.log({"x": 2})
again.finish()
said["same"] = again is run
""")
    assert said["same"] and run.summary["x"] == 2
    assert os.listdir(os.path.join(run.dir, "media", "html"))
