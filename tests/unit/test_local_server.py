"""The owner's end of the local transport, and a worker's connections to it, without processes."""

import contextlib
import multiprocessing.connection
import os
import pickle
import re
import socket
import struct
import threading
import time

import pytest
from limits import SOON_SECONDS, WAIT_SECONDS

from wandb_ddp_patch.errors import FINISHED, RunUnreachableError
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports import local, local_server
from wandb_ddp_patch.transports.local import LocalTransport, OwnerConnection


class UnpicklableError(Exception):
    def __init__(self, lock):
        super().__init__(lock)


class Run:
    """What a server needs of a run."""

    def __init__(self):
        self.rows, self.waits, self.wait = [], threading.Event(), threading.Event()

    def log(self, row):
        if "error" in row:
            raise row["error"]
        self.rows.append(row)
        return row.get("result")

    def alert(self, count=1):
        self.waits.set()
        assert self.wait.wait(WAIT_SECONDS)
        return count

    def define_metric(self, name):
        raise UnpicklableError(threading.Lock())

    def save(self, path, base_path=None):
        return threading.Lock()


class Opened:
    def __init__(self):
        self.run, self.owned = Run(), state.OwnerState(os.urandom(16).hex())
        state.bind(self.run, self.owned)
        self.address = local_server.listen_local(self.owned)
        owner = {"owner_pid": os.getpid(), "owner_fingerprint": None}
        self.payload = {"local_address": self.address, "key": self.owned.key, **owner}

    def connect(self):
        return OwnerConnection(self.payload)

    def end(self):
        local_server.close_run(self.owned)


@pytest.fixture
def opened():
    made = Opened()
    yield made
    made.run.wait.set()
    made.end()


def call(connection, name, *args, **kwargs):
    return connection.request(pickle.dumps((name, args, kwargs)))


def until(is_so):
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


def test_calls_are_made_when_they_return(opened):
    connection = opened.connect()
    for n in range(100):
        assert call(connection, "log", {"n": n}) == (True, None)
        assert opened.run.rows[-1] == {"n": n}
    big = "x" * 1_000_000
    assert call(connection, "log", {"result": big}) == (True, big)
    assert call(connection, "__getattribute__", "rows")[1][0] == {"n": 0}
    connection.close()


def test_errors_and_results_come_back_if_they_can(opened):
    connection = opened.connect()
    done, error = call(connection, "log", {"error": ValueError("wrong")})
    assert (done, type(error), str(error)) == (False, ValueError, "wrong")
    done, error = call(connection, "log", {"error": SystemExit(2)})
    assert (done, type(error), str(error)) == (False, RuntimeError, "SystemExit: 2")
    done, error = call(connection, "define_metric", "x")
    assert (done, type(error)) == (False, RuntimeError) and "UnpicklableError" in str(error)
    assert call(connection, "save", "x") == (True, None)  # a lock can't be sent
    done, error = call(connection, "__getattribute__", "wait")
    assert (done, type(error).__name__) == (False, "NotSerializableError")
    done, error = connection.request(b"no pickle")
    assert not done and isinstance(error, pickle.UnpicklingError)
    assert call(connection, "log", {"n": 1}) == (True, None)
    connection.close()


def test_a_call_that_takes_long_holds_up_nobody_else(opened):
    results, slow = [], [opened.connect() for _ in range(3)]
    threads = [
        threading.Thread(target=lambda n=n, one=one: results.append(call(one, "alert", n)))
        for n, one in enumerate(slow)
    ]
    for thread in threads:
        thread.start()
    assert opened.run.waits.wait(WAIT_SECONDS)
    other = opened.connect()
    assert call(other, "log", {"n": 1}) == (True, None)
    opened.run.wait.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(results) == [(True, 0), (True, 1), (True, 2)]
    for connection in (*slow, other):
        connection.close()


def test_a_default_timeout_of_sockets_is_not_ours(opened):
    socket.setdefaulttimeout(0.2)
    try:
        connection = opened.connect()
        time.sleep(0.5)
        results = []
        caller = threading.Thread(target=lambda: results.append(call(connection, "alert")))
        caller.start()
        caller.join(0.5)
        opened.run.wait.set()
        caller.join(WAIT_SECONDS)
        assert results == [(True, 1)]
        other = Opened()
        assert call(other.connect(), "log", {"n": 1}) == (True, None)
        other.end()
    finally:
        socket.setdefaulttimeout(None)


def test_many_workers_at_once(opened):
    def work(name):
        connection = opened.connect()
        for n in range(20):
            call(connection, "log", {name: n})
        connection.close()

    workers = [threading.Thread(target=work, args=(f"worker {n}",)) for n in range(64)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_SECONDS)
    for n in range(64):
        rows = [row[f"worker {n}"] for row in opened.run.rows if f"worker {n}" in row]
        assert rows == list(range(20))


# --- the end ----------------------------------------------------------------------


def test_workers_hear_that_the_run_is_over(opened):
    used, idle = opened.connect(), opened.connect()
    call(used, "log", {"n": 1})
    assert until(lambda: len(local_server._server._runs[opened.owned.key]) == 2)
    assert not used.is_over() and not idle.is_over()
    opened.end()
    assert idle.is_over() and idle.closed
    for connection in (used, opened.connect()):  # one that has not connected before, too
        begun = time.monotonic()
        with pytest.raises(RunUnreachableError, match=re.escape(FINISHED)):
            call(connection, "log", {"n": 2})
        assert time.monotonic() < begun + SOON_SECONDS
        assert connection.closed
    assert opened.run.rows == [{"n": 1}]


def test_the_end_waits_for_calls_that_are_under_way(opened):
    connection, results = opened.connect(), []
    caller = threading.Thread(target=lambda: results.append(call(connection, "alert")))
    caller.start()
    assert opened.run.waits.wait(WAIT_SECONDS)
    ending = threading.Thread(target=opened.end)
    ending.start()
    ending.join(0.3)
    assert ending.is_alive()
    with pytest.raises(RunUnreachableError, match=re.escape(FINISHED)):
        call(opened.connect(), "log", {"n": 2})
    opened.run.wait.set()
    ending.join(WAIT_SECONDS)
    caller.join(WAIT_SECONDS)
    assert results == [(True, 1)]
    assert until(connection.is_over)


def test_a_worker_that_goes_leaves_nothing(opened):
    threads = threading.active_count()
    for _ in range(20):
        connection = opened.connect()
        call(connection, "log", {"n": 1})
        connection.close()
    server = local_server._server
    assert until(lambda: not server._runs[opened.owned.key])
    assert until(lambda: threading.active_count() <= threads)


def test_one_run_ends_and_another_goes_on(opened):
    other = Opened()
    assert other.address == opened.address
    connection = opened.connect()
    other.end()
    assert call(connection, "log", {"n": 1}) == (True, None)
    connection.close()


def test_a_pools_worker_lets_go_of_runs_that_are_over(opened):
    other = Opened()
    transports = [LocalTransport(each.payload) for each in (other, opened)]
    assert transports[0]._request(pickle.dumps(("log", ({},), {}))) == (True, None)
    kept = local._connections[other.owned.key]
    other.end()
    assert transports[1]._request(pickle.dumps(("log", ({},), {}))) == (True, None)
    assert kept.closed and other.owned.key not in local._connections
    local._connections.pop(opened.owned.key).close()


# --- strangers --------------------------------------------------------------------


def knock(address):
    stranger = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    stranger.settimeout(WAIT_SECONDS)
    stranger.connect(address)
    return stranger


def is_sent_away(stranger):
    with contextlib.suppress(ConnectionError):
        while stranger.recv(1000):
            pass
    stranger.close()
    return True


def test_strangers_hold_up_nobody_and_are_sent_away(opened, monkeypatch):
    monkeypatch.setattr(local_server, "_AUTHENTICATION_SECONDS", 1)
    threads = threading.active_count()
    silent = [knock(opened.address) for _ in range(100)]
    talking, lying = knock(opened.address), knock(opened.address)
    talking.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n" + bytes(64))
    lying.sendall(struct.pack("!i", 1 << 30))  # a message that is too long
    slow = knock(opened.address)
    slow.sendall(b"\0\0")  # half a message
    connection = opened.connect()
    assert call(connection, "log", {"n": 1}) == (True, None)
    assert all(map(is_sent_away, [talking, lying, slow, *silent]))
    assert call(connection, "log", {"n": 2}) == (True, None)  # it may be silent for longer
    connection.close()
    assert until(lambda: threading.active_count() <= threads)


def test_there_are_never_many_of_them(opened, monkeypatch):
    monkeypatch.setattr(local_server, "_AUTHENTICATION_SECONDS", 1)
    threads = threading.active_count()
    silent = [knock(opened.address) for _ in range(400)]
    most = threading.active_count()
    connection = opened.connect()
    most = max(most, threading.active_count())
    assert call(connection, "log", {"n": 1}) == (True, None)
    assert most <= threads + local_server._UNAUTHENTICATED + 1
    connection.close()
    assert all(map(is_sent_away, silent))


def test_who_does_not_hold_the_key_is_told_and_nothing_of_it_is_loaded(opened, monkeypatch):
    with pytest.raises(multiprocessing.AuthenticationError):
        multiprocessing.connection.Client(opened.address, authkey=b"another tree's")
    token = local.tree_token
    monkeypatch.setattr(local, "tree_token", lambda: b"another tree's")
    why = "this process was not started with multiprocessing by the one that called"
    with pytest.raises(RunUnreachableError, match=re.escape(why)):
        opened.connect()
    monkeypatch.setattr(local, "tree_token", token)
    assert opened.run.rows == []


def test_who_answers_has_to_hold_the_key_too(opened):
    with multiprocessing.connection.Listener(authkey=b"another tree's") as listener:

        def answer():
            with contextlib.suppress(multiprocessing.AuthenticationError):
                listener.accept()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RunUnreachableError, match="was not started with multiprocessing"):
            OwnerConnection({**opened.payload, "local_address": listener.address})
        thread.join(WAIT_SECONDS)


def test_no_payload_holds_the_key(opened):
    assert local.tree_token() not in pickle.dumps(opened.payload)


def test_nobody_is_at_the_address(opened):
    with local_server.listen() as listener:
        address = listener.address
    with pytest.raises(RunUnreachableError, match=re.escape(FINISHED)):
        OwnerConnection({**opened.payload, "local_address": os.fsdecode(address)})


def test_a_worker_that_was_too_slow_to_answer_was_not_refused(opened, monkeypatch):
    monkeypatch.setattr(local_server, "_AUTHENTICATION_SECONDS", 1)
    monkeypatch.setattr(local, "_REFUSED_SECONDS", 0.5)
    answer, late = local.answer_challenge, [1.5, 1.5]  # as if the worker were stopped

    def answer_late(*args):
        time.sleep(late.pop() if late else 0)
        answer(*args)

    monkeypatch.setattr(local, "answer_challenge", answer_late)
    connection = opened.connect()
    assert not late
    assert call(connection, "log", {"n": 1}) == (True, None)
    connection.close()


# --- what is short -----------------------------------------------------------------


def test_threads_are_short_for_a_moment(opened, monkeypatch):
    start, refused = threading.Thread.start, []

    def sometimes(self):
        if getattr(self._target, "__name__", "") == "_serve" and len(refused) < 3:
            refused.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", sometimes)
    connection = opened.connect()
    assert call(connection, "log", {"n": 1}) == (True, None)
    assert len(refused) == 3
    connection.close()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
def test_no_server_can_be_had(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(local_server, "_server", None)
    monkeypatch.setattr(local_server, "listen", fail)
    assert local_server.listen_local(state.OwnerState(os.urandom(16).hex())) is None
