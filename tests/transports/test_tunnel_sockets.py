"""The tunnel over real sockets: cuts, strangers, silence, forks, and who is not there."""

import asyncio
import contextlib
import os
import select
import socket
import threading
import time

import pytest
from limits import SOON_SECONDS, WAIT_SECONDS

from wandb_ddp_patch.tunnel import client as clients
from wandb_ddp_patch.tunnel import event_loop, tls
from wandb_ddp_patch.tunnel import server as servers
from wandb_ddp_patch.tunnel.client import Client, ImpostorError, RefusedError, TunnelError
from wandb_ddp_patch.tunnel.server import Server
from wandb_ddp_patch.tunnel.stream import LIMIT_BYTES, Stream

NAME, TOKEN = b"n" * 16, os.urandom(32)


def wait_for(condition, seconds=WAIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


def in_loop(function, *args):
    """Call something in the loop's thread; return what it returns."""

    async def call():
        return function(*args)

    return asyncio.run_coroutine_threadsafe(call(), event_loop.get()).result(WAIT_SECONDS)


class Echo:
    """A server that keeps what has come, and sends it back where it is told to."""

    def __init__(self, token=TOKEN, answers=True):
        self.server, self.streams, self.came = Server(), {}, {}
        self.answers, self.consumes = answers, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.server.add(NAME, token, self.open)
        self.server.listen(self.listener)

    def open(self, id):
        if id not in self.streams:
            self.came[id] = bytearray()
            self.streams[id] = Stream(id, lambda data: self.take(id, data))
        return self.streams[id]

    def take(self, id, data):
        self.came[id] += data
        if self.consumes:
            self.streams[id].consume(len(data))
        if self.answers:
            self.streams[id].write(data)
        return False


class Caller:
    """A client that keeps what comes back."""

    def __init__(self, address, token=TOKEN, name=NAME, timeout=60):
        self.came, self.why = bytearray(), None
        self.stream = Stream(os.urandom(16), self.take)
        self.client = Client(self.stream, address, name, token, timeout, self.end)
        in_loop(self.client.start)

    def take(self, data):
        self.came += data
        self.stream.consume(len(data))
        return False

    def end(self, why):
        self.why = why

    def write(self, data):
        in_loop(self.stream.write, data)

    def close(self):
        in_loop(self.client.close)


class Relay:
    """Carries connections to a port, until it is told to cut them, or to carry no more."""

    def __init__(self, port):
        self.port, self.carries = port, True
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
    assert isinstance(caller.why, RefusedError) and "does not know it" in str(caller.why)
    assert not echo.streams


def test_one_that_answers_nothing_is_waited_for_within_the_limit():
    silent = socket.create_server(("127.0.0.1", 0))
    caller = Caller(silent.getsockname(), timeout=1)
    wait_for(lambda: caller.why)
    assert type(caller.why) is TunnelError
    assert "has not answered" in str(caller.why) and "within 1 s" in str(caller.why)
    silent.close()


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_lets_go_of_the_sockets_and_harms_nothing(echo):
    caller = Caller(echo.address)
    caller.write(b"before")
    wait_for(lambda: caller.came == b"before")
    child = os.fork()
    if child == 0:
        try:
            event_loop.after_fork_in_child()
            own = Caller(echo.address)  # the parent's server, by a loop of its own
            own.write(b"from the fork")
            wait_for(lambda: own.came == b"from the fork")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    caller.write(b" and after")
    wait_for(lambda: caller.came == b"before and after")
    caller.close()
