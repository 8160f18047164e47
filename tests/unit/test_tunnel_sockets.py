"""The tunnel over real sockets: cuts, strangers, silence, and who is not there."""

import concurrent.futures.thread
import contextlib
import os
import select
import socket
import threading
import time
import types

import pytest
from limits import SOON_SECONDS, WAIT_SECONDS
from tunnel_ends import Caller, Echo, in_loop, wait_for

from wandb_ddp_patch.errors import RunUnreachableError
from wandb_ddp_patch.transports.remote import endpoint, shared_runs
from wandb_ddp_patch.tunnel import client as clients
from wandb_ddp_patch.tunnel import connection as connections
from wandb_ddp_patch.tunnel import event_loop, tls
from wandb_ddp_patch.tunnel import server as servers
from wandb_ddp_patch.tunnel.client import (
    ImpostorError,
    RefusedError,
    TunnelError,
    UnknownError,
)
from wandb_ddp_patch.tunnel.stream import LIMIT_BYTES


class Relay:
    """Carries connections to a port, until it is told to cut them, or to carry no more.

    It holds up the first ones for as many seconds as ``delays`` says. While ``is_down`` is set,
    it accepts connections, says something, and closes them: see ``closed``.
    """

    def __init__(self, port, delays=(), is_down=False, says=b""):
        self.port, self.carries, self.delays = port, True, list(delays)
        self.is_down, self.says, self.closed = is_down, says, 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = self.listener.getsockname()
        self.pairs = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                near = self.listener.accept()[0]
                if self.is_down:
                    near.sendall(self.says)
                    near.close()
                    self.closed += 1
                    continue
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
    in_loop(lambda: [caller.stream.write(caller.stream.id) for caller in callers])
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


def test_a_process_that_was_stopped_while_it_connects_tries_again(echo, monkeypatch):
    real, relay = time.monotonic, Relay(echo.address[1], delays=[30.0])
    caller = Caller(relay.address)
    caller.write(b"later")
    wait_for(lambda: relay.pairs and not relay.delays)
    monkeypatch.setattr(time, "monotonic", lambda: real() + 3600)  # as after SIGSTOP and SIGCONT
    in_loop(lambda: None)
    wait_for(lambda: caller.came == b"later" or caller.why)
    assert caller.why is None
    caller.close()


def test_who_is_sent_away_for_want_of_room_is_not_unknown(echo, monkeypatch):
    monkeypatch.setattr(servers, "_PROOF_SECONDS", 0.3)
    monkeypatch.setattr(clients, "LEAST_SECONDS", 0.2)
    monkeypatch.setattr(clients, "_GONE_SECONDS", 0.5)
    heard = []
    with monkeypatch.context() as busy:  # TLS's handshake is done, and the proof comes too late
        busy.setattr(connections.ServerConnection, "_authenticate", lambda self: heard.append(self))
        caller = Caller(echo.address)
        caller.write(b"late")
        wait_for(lambda: len(set(heard)) >= 4 or caller.why)
    wait_for(lambda: caller.came == b"late" or caller.why)
    assert caller.why is None
    caller.close()


@pytest.mark.parametrize("is_known", [False, True])
def test_what_only_passes_bytes_on_may_close_connections_for_a_while(echo, monkeypatch, is_known):
    monkeypatch.setattr(clients, "_GONE_SECONDS", 0.2)
    relay = Relay(echo.address[1], is_down=not is_known)  # as ssh -L while its network is down
    caller = Caller(relay.address)
    caller.write(b"one")
    if is_known:
        wait_for(lambda: caller.came == b"one")
        relay.is_down = True
        relay.cut()
    caller.write(b"two")
    wait_for(lambda: relay.closed >= 6 or caller.why)
    relay.is_down = False
    wait_for(lambda: caller.came == b"onetwo" or caller.why)
    assert caller.why is None
    caller.close()


def test_what_passes_bytes_on_to_nobody_is_named_within_the_limit(echo):
    caller = Caller(Relay(echo.address[1], is_down=True).address, timeout=0.5)
    wait_for(lambda: caller.why)
    assert type(caller.why) is TunnelError
    assert "(connections are closed there before an answer comes)" in str(caller.why)


def test_who_speaks_something_else_does_not_know_the_run(echo, monkeypatch):
    monkeypatch.setattr(clients, "LEAST_SECONDS", 0.0)  # however slowly it does
    relay = Relay(echo.address[1], is_down=True, says=b"SSH-2.0-OpenSSH_9.6\r\n")
    caller = Caller(relay.address)
    wait_for(lambda: caller.why)
    assert isinstance(caller.why, UnknownError) and "does not know this run" in str(caller.why)


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


NOBODY = "/nobody/is/here"


@pytest.fixture
def addresses_of(monkeypatch):
    """Give a name addresses; NOBODY is one that can't be reached."""
    real, known = socket.getaddrinfo, {}

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in known:
            return real(host, port, *args, **kwargs)
        if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror("it is a name")
        tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [
            (socket.AF_UNIX, *tcp, each) if each == NOBODY else (socket.AF_INET, *tcp, (each, port))
            for each in known[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known.__setitem__


@pytest.mark.parametrize("first", ["127.0.0.2", NOBODY])
def test_a_name_with_several_addresses_is_reached_at_any(echo, addresses_of, first):
    addresses_of("owner.test", [first, "127.0.0.1"])
    caller = Caller(("owner.test", echo.address[1]))
    caller.write(b"hello")
    wait_for(lambda: caller.came == b"hello" or caller.why)
    assert caller.why is None
    caller.close()


def test_a_name_is_refused_where_all_of_its_addresses_are(addresses_of):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    addresses_of("owner.test", ["127.0.0.2", "127.0.0.1"])
    addresses_of("half.test", ["127.0.0.1", NOBODY])
    refused = Caller(("owner.test", port), timeout=5)
    wait_for(lambda: refused.why)
    assert isinstance(refused.why, RefusedError)
    waits = Caller(("half.test", port), timeout=0.5)
    wait_for(lambda: waits.why)
    assert type(waits.why) is TunnelError


def test_a_name_is_found_where_no_thread_can_be_started_any_more(echo, addresses_of, monkeypatch):
    addresses_of("owner.test", ["127.0.0.1"])
    relay = Relay(echo.address[1])
    caller = Caller(("owner.test", relay.address[1]))
    caller.write(b"one")
    wait_for(lambda: caller.came == b"one")
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)  # as in exit hooks
    relay.cut()
    caller.write(b"two")
    wait_for(lambda: caller.came == b"onetwo")
    caller.close()


def test_whatever_fails_is_told():
    caller = Caller(("\u00fc" * 64, 1))  # no name can be so long
    wait_for(lambda: caller.why)
    assert type(caller.why) is TunnelError
    assert "has failed: UnicodeError(" in str(caller.why)


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
    monkeypatch.setattr(servers, "LEAST_SECONDS", 0.2)
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


def test_those_who_connect_together_are_accepted_together(echo):
    loop, together, rounds, done = event_loop.get(), [], [], threading.Event()

    def count():  # each time that the loop comes round, which it does seldom while rows come
        if len(echo.server._strangers) < len(together):
            rounds.append(None)
            loop.call_soon(count)
        else:
            done.set()

    def connect():
        together.extend(socket.create_connection(echo.address) for _ in range(100))
        count()

    in_loop(connect)
    assert done.wait(WAIT_SECONDS)
    assert len(rounds) < 20
    for stranger in together:
        stranger.close()


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


# --- the thread --------------------------------------------------------------------


def test_where_no_thread_can_be_started_it_is_said_and_tried_again(monkeypatch):
    said = []
    monkeypatch.setattr(event_loop, "_loop", None)
    monkeypatch.setattr(shared_runs, "_gateway", None)
    monkeypatch.setattr(shared_runs, "_heard", {})
    monkeypatch.setattr(shared_runs._lifecycle, "termwarn", lambda text, **_: said.append(text))
    monkeypatch.setenv("WANDB_DDP_PATCH_SHARE", "127.0.0.1")

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as too_many:
        too_many.setattr(threading.Thread, "start", start)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                event_loop.get()
        shared_runs.share_from_environment(types.SimpleNamespace(share=None, key="0" * 32))
    assert said == ["The run is not shared with other machines: can't start new thread."]
    assert in_loop(threading.current_thread).name == "wandb_ddp_patch tunnel"
    event_loop.get().call_soon_threadsafe(event_loop.get().stop)
