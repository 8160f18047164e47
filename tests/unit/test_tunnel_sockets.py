"""The tunnel over real sockets: cuts, strangers, silence, and who is not there."""

import asyncio
import contextlib
import os
import select
import socket
import threading
import time

import pytest
import raw_worker
from limits import SOON_SECONDS, WAIT_SECONDS
from tunnel_ends import NAME, TOKEN, Caller, Echo, in_loop, wait_for

from wandb_ddp_patch.errors import RunUnreachableError
from wandb_ddp_patch.transports.remote import endpoint, records, wandb_protocol
from wandb_ddp_patch.tunnel import client as clients
from wandb_ddp_patch.tunnel import server as servers
from wandb_ddp_patch.tunnel import tls
from wandb_ddp_patch.tunnel.client import (
    ImpostorError,
    RefusedError,
    TunnelError,
    UnknownError,
)
from wandb_ddp_patch.tunnel.stream import LIMIT_BYTES


class Relay:
    """Carries connections to a port, until it is told to cut them, or to carry no more.

    It holds up the first ones for as many seconds as ``delays`` says.
    """

    def __init__(self, port, delays=()):
        self.port, self.carries, self.delays = port, True, list(delays)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = self.listener.getsockname()
        self.pairs = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                near = self.listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            self.pairs.append((near, far))
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def carry(self, near, far):
        time.sleep(self.delays.pop() if self.delays else 0)
        other = {near: far, far: near}
        while True:
            try:
                for ready in select.select([near, far], [], [], 1)[0]:
                    data = ready.recv(1 << 16)
                    if self.carries:
                        other[ready].sendall(data)
                    if not data:
                        raise OSError
            except (OSError, ValueError):
                near.close()
                far.close()
                return

    def cut(self):
        while self.pairs:
            for end in self.pairs.pop():
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def echo():
    return Echo()


def test_what_is_written_comes_back(echo):
    caller = Caller(echo.address)
    data = os.urandom(2 << 20)
    caller.write(data)
    wait_for(lambda: caller.came == data)
    wait_for(lambda: not len(caller.stream.outbox), SOON_SECONDS)
    caller.close()


def test_cuts_lose_and_repeat_nothing(echo):
    relay = Relay(echo.address[1])
    caller, written = Caller(relay.address), bytearray()
    for n in range(60):
        data = os.urandom(5000)
        written += data
        caller.write(data)
        if n % 10 == 9:
            time.sleep(0.05)
            relay.cut()
    wait_for(lambda: len(caller.came) == len(written))
    assert caller.came == written
    assert len(echo.streams) == 1
    caller.close()


def test_many_clients_at_once(echo):
    callers = [Caller(echo.address) for _ in range(300)]
    for caller in callers:
        caller.write(caller.stream.id)
    wait_for(lambda: all(caller.came == caller.stream.id for caller in callers))
    for caller in callers:
        caller.close()


def test_a_reader_that_does_not_consume_stops_the_writer(echo):
    echo.answers = echo.consumes = False
    caller = Caller(echo.address)
    caller.write(b"x" * (5 * LIMIT_BYTES))
    wait_for(lambda: echo.came and next(iter(echo.came.values())))
    time.sleep(0.5)
    (stream,) = echo.streams.values()
    assert LIMIT_BYTES <= stream.received < 2 * LIMIT_BYTES
    echo.consumes = True
    in_loop(stream.consume, stream.received)
    wait_for(lambda: stream.received == 5 * LIMIT_BYTES)
    caller.close()


def test_a_silent_connection_is_made_anew(echo, monkeypatch):
    monkeypatch.setattr(clients, "_SILENT_SECONDS", 1.0)
    relay = Relay(echo.address[1])
    caller = Caller(relay.address)
    caller.write(b"one")
    wait_for(lambda: caller.came == b"one")
    relay.carries = False  # as where a router forgets a connection
    caller.write(b"two")
    time.sleep(1)
    relay.carries = True
    wait_for(lambda: caller.came == b"onetwo")
    caller.close()


def test_who_is_too_slow_to_prove_itself_is_not_unknown(echo, monkeypatch):
    monkeypatch.setattr(servers, "_PROOF_SECONDS", 0.5)
    monkeypatch.setattr(clients, "_GONE_SECONDS", 0.3)
    relay = Relay(echo.address[1], delays=[1.0, 1.0])
    caller = Caller(relay.address)
    caller.write(b"late")
    wait_for(lambda: caller.came == b"late" or caller.why)
    assert caller.why is None
    assert not relay.delays
    caller.close()


# --- a worker's end -----------------------------------------------------------------


class Owner(Echo):
    """The other end of an endpoint, which keeps the records that have come."""

    def __init__(self):
        super().__init__(answers=False)
        self.share = {**dict(zip(("host", "port"), self.address)), "token": TOKEN}
        self.decoder, self.kinds = records.decoder(), []

    def take(self, id, data):
        self.kinds += [kind for kind, _ in self.decoder.feed(data)]
        return super().take(id, data)

    @property
    def stream(self):
        wait_for(lambda: self.streams)
        return next(iter(self.streams.values()))


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
def worker(owner):
    worker = endpoint.Endpoint(owner.share, NAME, "", 60)
    worker.open()
    yield worker
    for session in list(worker._sessions):
        in_loop(session.close)


def drain(owner):
    """Ask a worker for what it has logged, and wait until it has done what it does then."""
    in_loop(owner.stream.write, records.encode(records.DRAIN))
    wait_for(lambda: not len(owner.stream.outbox))
    wait_for(lambda: all(each.name != "wandb_ddp_patch" for each in threading.enumerate()))


def fails():
    raise OSError


@pytest.mark.parametrize("answer", [lambda: True, lambda: False, fails])
def test_a_worker_is_drained_only_if_all_was_sent(owner, worker, answer):
    begun, worker.wait_until_sent = time.monotonic(), answer
    drain(owner)
    worker.close()
    wait_for(lambda: records.BYE in owner.kinds)
    is_sent = answer is not fails and answer()
    assert owner.kinds == [records.DRAINED] * is_sent + [records.BYE]
    assert (worker.drained_at > begun) == is_sent


def test_what_is_logged_while_a_worker_is_drained_is_not_said_to_have_arrived(owner, worker):
    logged = []

    def wait_until_sent():
        logged.append(time.monotonic())
        return True

    worker.wait_until_sent = wait_until_sent
    drain(owner)
    assert 0 < worker.drained_at <= logged[0]


def test_a_worker_that_can_start_no_thread_is_not_drained(owner, worker, monkeypatch):
    class Thread:
        def __init__(self, **kwargs):
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(endpoint.threading, "Thread", Thread)
        drain(owner)
    worker.close()
    wait_for(lambda: records.BYE in owner.kinds)
    assert owner.kinds == [records.BYE] and worker.drained_at == 0


def test_a_goodbye_comes_after_what_waits_for_a_file(owner, worker, monkeypatch):
    may_send, send_file = threading.Event(), endpoint.WorkerSession._send_file

    async def send_later(session, file):
        while not may_send.is_set():
            await asyncio.sleep(0.01)
        await send_file(session, file)

    monkeypatch.setattr(endpoint.WorkerSession, "_send_file", send_later)
    with open(os.path.join(worker.files_dir, "one.txt"), "w") as file:
        file.write("1")
    with socket.create_connection(("127.0.0.1", int(worker.service.rpartition("-")[2]))) as client:
        message = raw_worker.files("run", "one.txt").SerializeToString()
        client.sendall(wandb_protocol.frame(message))
        wait_for(worker.unacknowledged)
        worker.close()
        in_loop(may_send.set)
        wait_for(lambda: records.BYE in owner.kinds and records.MESSAGE in owner.kinds)
    sent = [records.FILE, records.DATA, records.END, records.MESSAGE, records.BYE]
    assert owner.kinds == sent
    wait_for(lambda: not os.path.exists(worker.folder))


# --- who is not let in -------------------------------------------------------------


def test_nobody_at_the_address_is_said_at_once():
    free = socket.create_server(("127.0.0.1", 0))
    address = free.getsockname()
    free.close()
    begun = time.monotonic()
    caller = Caller(address)
    wait_for(lambda: caller.why)
    assert isinstance(caller.why, RefusedError)
    assert str(caller.why) == f"connections to 127.0.0.1, port {address[1]} are refused"
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("who", [{"token": b"?" * 32}, {"name": b"?" * 16}])
def test_who_is_not_let_in_is_told_after_a_while(echo, who):
    caller = Caller(echo.address, **who)
    wait_for(lambda: caller.why)
    assert isinstance(caller.why, UnknownError) and "does not know this run" in str(caller.why)
    assert not echo.streams


def test_one_that_answers_nothing_is_waited_for_within_the_limit():
    silent = socket.create_server(("127.0.0.1", 0))
    caller = Caller(silent.getsockname(), timeout=1)
    wait_for(lambda: caller.why)
    assert type(caller.why) is TunnelError
    assert "has not answered" in str(caller.why) and "within 1 s" in str(caller.why)
    silent.close()


def test_a_worker_that_waits_long_says_for_what(monkeypatch):
    said = []
    monkeypatch.setattr(endpoint, "_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(endpoint._lifecycle, "termwarn", said.append)
    silent = socket.create_server(("127.0.0.1", 0))  # as behind a firewall that drops packets
    host, port = silent.getsockname()
    share = {"host": host, "port": port, "token": b"?" * 32}
    with pytest.raises(RunUnreachableError, match="has not answered"):
        endpoint.Endpoint(share, b"?" * 16, "", 1).open()
    silent.close()
    (notice,) = said
    assert f"{host}, port {port}, for up to 1 s: a firewall" in notice


def test_who_answers_without_the_token_is_named(monkeypatch):
    real = tls.check

    def of_client(proof, token, role, binding, said):
        if role == b"server":  # the server itself lets in whoever comes
            real(proof, token, role, binding, said)

    monkeypatch.setattr(tls, "check", of_client)
    caller = Caller(Echo(token=os.urandom(32)).address)
    caller.write(b"a secret")
    wait_for(lambda: caller.why)
    assert isinstance(caller.why, ImpostorError)
    assert not caller.came and caller.stream.outbox.acknowledged == 0


def test_strangers_are_few_and_go(echo, monkeypatch):
    monkeypatch.setattr(servers, "_STRANGERS", 8)
    monkeypatch.setattr(servers, "_LEAST_SECONDS", 0.2)
    monkeypatch.setattr(servers, "_PROOF_SECONDS", 1.0)
    strangers = [socket.create_connection(echo.address) for _ in range(20)]
    caller = Caller(echo.address)
    caller.write(b"let me in")
    wait_for(lambda: caller.came == b"let me in")
    for stranger in strangers[:8]:
        stranger.settimeout(WAIT_SECONDS)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1) == b""
    assert len(echo.server._strangers) <= 8
    caller.close()


def test_strangers_that_send_rubbish_do_no_harm(echo):
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000), b"\x16\x03\x01" + b"\xff" * 500):
        with socket.create_connection(echo.address) as stranger:
            stranger.sendall(rubbish)
            stranger.settimeout(WAIT_SECONDS)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass
    caller = Caller(echo.address)
    caller.write(b"still there")
    wait_for(lambda: caller.came == b"still there")
    caller.close()


# --- forks ---------------------------------------------------------------------------
