"""The protocol between machines: frames, handshake, numbered items, and the owner's hub."""

import contextlib
import hashlib
import ntpath
import os
import pickle
import re
import socket
import threading
import time
import types
from pathlib import Path

import pytest
import wandb
from limits import SOON_SECONDS, WAIT_SECONDS

from wandb_ddp_patch.borrowed import link
from wandb_ddp_patch.borrowed.remote import client as clients
from wandb_ddp_patch.borrowed.remote import files, frames, handshake, messages, opening, packing
from wandb_ddp_patch.borrowed.remote import hub as hubs
from wandb_ddp_patch.borrowed.remote import shared as shared_runs
from wandb_ddp_patch.borrowed.remote.client import GONE, Client
from wandb_ddp_patch.borrowed.remote.frames import BrokenError, Item, Opener, Sealer
from wandb_ddp_patch.borrowed.remote.lanes import PART, Incoming, Outgoing
from wandb_ddp_patch.errors import FINISHED, Unreachable

KEY = os.urandom(32)
ITEMS = [Item(1, messages.ROW, b"one"), Item(2, messages.CALL, b""), Item(3, 9, b"x" * 1000)]

# --- frames -------------------------------------------------------------------


def test_frames_arrive_byte_by_byte():
    sealer, opener = Sealer(KEY), Opener(KEY)
    sent = sealer.seal(7, ITEMS, asks=True) + sealer.seal(8, [])
    came = [frame for n in range(len(sent)) for frame in opener.feed(sent[n : n + 1])]
    assert came == [(7, True, ITEMS), (8, False, [])]


def test_any_changed_byte_is_refused():
    sealed = Sealer(KEY).seal(7, ITEMS[:2])
    for n in range(4, len(sealed)):  # before are the bytes of the length
        changed = sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :]
        with pytest.raises(BrokenError):
            list(Opener(KEY).feed(changed))


def test_a_frame_that_is_replayed_left_out_cut_or_too_long_is_refused():
    sealer = Sealer(KEY)
    one, two = sealer.seal(0, ITEMS), sealer.seal(0, ITEMS)
    with pytest.raises(BrokenError):
        list(Opener(KEY).feed(one + one))
    with pytest.raises(BrokenError):
        list(Opener(KEY).feed(two))
    assert list(Opener(KEY).feed(one[:-1])) == []
    with pytest.raises(BrokenError):
        list(Opener(KEY).feed(one[:-1] + two))
    with pytest.raises(BrokenError):
        list(Opener(KEY).feed(b"\xff\xff\xff\xff"))
    with pytest.raises(BrokenError):
        list(Opener(os.urandom(32)).feed(one))


# --- handshake ----------------------------------------------------------------


def shake(ours, theirs, run=b"r" * 16, session=b"s" * 16):
    knock = handshake.Knock(run, session, ours)
    assert handshake.names(knock.hello) == (run, session)
    door = handshake.Door(knock.hello, theirs, 41)
    proof, has, of_worker = knock.prove(door.answer, 13)
    return knock, door, proof, has, of_worker


def test_both_sides_prove_themselves_and_agree():
    token = os.urandom(32)
    _, door, proof, has, keys = shake(token, token)
    assert (has, door.check(proof)) == (41, (13, keys))
    assert keys.of_worker != keys.of_owner
    # Nothing that was said in another handshake is of any use.
    knock, other, proof2, _, keys2 = shake(token, token)
    assert keys2 != keys and token not in knock.hello + other.answer + proof2
    with pytest.raises(handshake.NotProvenError):
        other.check(proof)
    with pytest.raises(handshake.NotProvenError):
        knock.prove(door.answer, 13)
    with pytest.raises(handshake.NotProvenError):  # a count that was changed
        other.check(bytes(8) + proof2[8:])


def test_a_wrong_token_is_seen_by_both_sides():
    with pytest.raises(handshake.NotProvenError):
        shake(os.urandom(32), os.urandom(32))
    token = os.urandom(32)
    _, door, proof, _, _ = shake(token, token)
    with pytest.raises(handshake.NotProvenError):
        door.check(proof[:-1] + bytes([proof[-1] ^ 1]))
    with pytest.raises(handshake.NotProvenError):
        handshake.names(b"GET / HTTP/1.1\r\n" + bytes(56))


# --- numbered items -------------------------------------------------------------


def test_what_was_lost_is_sent_again_and_made_once():
    out, into, made = Outgoing(), Incoming(), []
    for n in range(10):
        out.put(messages.ROW, bytes([n]))

    def deliver(items):
        made.extend(item.body[0] for item in map(into.take, items) if item is not None)

    deliver(out.take()[:4])  # then the connection breaks
    out.put(messages.ROW, b"\x0a")
    out.resume(2)  # the owner had said so before it took two more
    deliver(out.take())
    out.is_made(into.taken)
    assert made == list(range(11))
    assert (len(out), out.size, out.unsent) == (0, 0, 0)
    with pytest.raises(BrokenError):
        into.take(Item(13, messages.ROW, b""))
    with pytest.raises(BrokenError):
        out.is_made(12)


@pytest.mark.parametrize("size", [0, 1, frames.PIECE_BYTES, frames.PIECE_BYTES + 1, 1_000_000])
def test_long_items_go_in_parts(size):
    out, into = Outgoing(), Incoming()
    body = os.urandom(size)
    number = out.put(messages.CALL, body)
    came = []
    while out.unsent:
        items = out.take()
        assert sum(len(item.body) for item in items) < 2 * frames.FRAME_BYTES
        assert all(item.kind == PART for item in items[:-1])
        came += [whole for whole in map(into.take, items) if whole is not None]
    assert came == [(number, messages.CALL, body)]


@pytest.mark.parametrize("size", [1, frames.PIECE_BYTES + 1])
def test_a_signals_handler_puts_an_item_in_the_middle_of_another(monkeypatch, size):
    out, into = Outgoing(), Incoming()
    add, bodies = Outgoing._add, [os.urandom(size), b"handler", b"after"]

    def interrupted(self, kind, body):
        monkeypatch.setattr(Outgoing, "_add", add)
        assert out.put(messages.ROW, bodies[1]) == 0
        assert (out.unsent, len(out), out.take()) == (1, 1, [])
        return add(self, kind, body)

    monkeypatch.setattr(Outgoing, "_add", interrupted)
    out.put(messages.ROW, bodies[0])
    out.put(messages.ROW, bodies[2])
    items = [item for _ in range(3) for item in out.take()]
    assert [whole.body for whole in map(into.take, items) if whole is not None] == bodies
    assert len(out) == into.taken == out.last


# --- files ----------------------------------------------------------------------


def test_a_file_that_was_damaged_is_not_used(tmp_path):
    came = files.Files()
    one, two = os.urandom(16), os.urandom(16)
    for file, content in ((one, b"right"), (two, b"wrong")):
        came.add(files.piece(file, content[:2]))
        came.add(files.piece(file, content[2:]))
        came.end(files.last_piece(file, hashlib.sha256(b"right").digest()))
    path = came.use(one, "/some/where/name.png")
    assert path.endswith("name.png") and Path(path).read_text() == "right"
    for file in (two, os.urandom(16)):
        with pytest.raises(files.DamagedError, match=r"name.png has not arrived whole"):
            came.use(file, "name.png")
    came.close()
    assert not os.path.exists(path)


ELSEWHERE = [["..", "x"], ["", "x"], ["a/b"], ["/etc"], ["a", "."]]
# Names of files for a worker on Linux; for an owner on Windows, other places.
ON_WINDOWS = [
    ["..\\x"],
    ["\\x"],
    ["C:x"],
    ["a", "D:\\x"],
    ["C:", "x"],
    ["\\\\host\\share\\x"],
    ["a:b"],
]


def test_save_stays_in_the_folder_of_the_run(tmp_path):
    run = types.SimpleNamespace(dir=str(tmp_path))
    for names in ELSEWHERE:
        with pytest.raises(ValueError, match="not below base_path"):
            files.save(run, files.Files(), ("x",), {tuple(names): (b"", "x")}, "now")
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="is not in"):
        packing.pack_save(str(tmp_path / "x"), str(tmp_path / "y"))


def test_save_stays_there_on_windows(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    windows = {"name": "nt", "sep": "\\", "altsep": "/", "path": ntpath}
    monkeypatch.setattr(files, "os", types.SimpleNamespace(**{**vars(os), **windows}))
    run = types.SimpleNamespace(dir="C:\\runs\\one")
    for names in [*ELSEWHERE, *ON_WINDOWS]:
        with pytest.raises(ValueError, match="not below base_path"):
            files.save(run, files.Files(), ("x",), {tuple(names): (b"", "x")}, "now")
    assert files._below(run.dir, ("a", "b.txt")) == "C:\\runs\\one\\a\\b.txt"


def test_a_file_may_have_any_name_where_it_comes_from(tmp_path):
    came, file = files.Files(), os.urandom(16)
    came.end(files.last_piece(file, hashlib.sha256().digest()))
    path = came.use(file, 'C:\\at 12:30 "?".png')
    assert path.endswith("at 12_30 ___.png") and os.path.exists(path)
    came.close()


# --- the owner's hub, and workers of it -------------------------------------------


class Run:
    """What a hub needs of a run."""

    def __init__(self):
        self.rows, self.wait, self.waits = [], threading.Event(), threading.Event()

    def log(self, row):
        if "error" in row:
            raise ValueError(row["error"])
        self.rows.append(row)

    def alert(self):
        self.waits.set()
        assert self.wait.wait(WAIT_SECONDS)
        return "alerted"


class Shared:
    def __init__(self):
        self.run, self.owned = Run(), link.Owned(os.urandom(16).hex())
        link.tie(self.run, self.owned)
        share = opening.open_to_machines(self.owned, "127.0.0.1", 0)
        self.address = share["host"], share["port"]
        self.token = share["token"]
        self.key = bytes.fromhex(self.owned.key)

    def client(self, patience=30.0, token=None, address=None):
        return Client(address or self.address, self.key, token or self.token, patience)


@pytest.fixture
def shared():
    made = Shared()
    yield made
    opening.end(made.owned)


def log(client, row):
    client.window.post(messages.ROW, packing.pack_plain("log", (row,), {}))


def call(client, name, *args):
    return client.window.ask(messages.CALL, packing.pack(name, args, {}).body)


def test_rows_and_calls_are_made_in_their_order(shared):
    client = shared.client()
    for n in range(25_000):  # more than the window holds
        log(client, {"n": n})
    assert client.window.flush() == 0
    assert shared.run.rows == [{"n": n} for n in range(25_000)]
    assert call(client, "__getattribute__", "rows")[-1] == {"n": 24_999}
    assert client.close() == []


def test_what_a_row_raises_comes_out_of_the_next_call_or_at_the_end(shared):
    client = shared.client()
    log(client, {"error": "one"})
    client.window.flush()
    with pytest.raises(ValueError, match="one"):
        log(client, {"n": 1})
    log(client, {"n": 2})
    with pytest.raises(ValueError, match="three"):
        call(client, "log", {"error": "three"})
    log(client, {"error": "four"})
    assert [str(error) for error in client.close()] == ["four"]
    assert shared.run.rows == [{"n": 2}]


def test_a_call_that_takes_long_holds_up_nobody_else(shared):
    slow, other = shared.client(), shared.client()
    results = []
    thread = threading.Thread(target=lambda: results.append(call(slow, "alert")))
    thread.start()
    assert shared.run.waits.wait(WAIT_SECONDS)
    log(other, {"n": 1})
    assert other.window.flush() == 0
    shared.run.wait.set()
    thread.join()
    assert results == ["alerted"]
    slow.close(), other.close()


class Proxy:
    """Stands between workers and an owner, and breaks connections."""

    def __init__(self, address):
        self.address, self.pairs = address, []
        self.sent = bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(self.address)
            self.pairs.append((near, far))
            for one, two in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(one, two, one is near)).start()

    def carry(self, one, two, keeps):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if keeps:
                    self.sent += data
                two.sendall(data)
        self.end(one, two)

    @staticmethod
    def end(*ends):
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for pair in self.pairs:
            self.end(*pair)


def test_connections_that_break_lose_nothing_and_double_nothing(shared):
    proxy = Proxy(shared.address)
    client = shared.client(address=("127.0.0.1", proxy.port))
    for n in range(3000):
        log(client, {"n": n})
        if n % 500 == 250:
            time.sleep(0.02)
            proxy.cut()
            # An answer finds its way, too.
            assert call(client, "__getattribute__", "rows")[n] == {"n": n}
    assert client.window.flush() == 0
    assert shared.run.rows == [{"n": n} for n in range(3000)]
    assert len(proxy.pairs) >= 7
    client.close()


def test_a_recorded_connection_is_of_no_use(shared):
    proxy = Proxy(shared.address)
    client = shared.client(address=("127.0.0.1", proxy.port))
    log(client, {"n": 1})
    assert client.close() == []
    with socket.create_connection(shared.address) as again:
        again.settimeout(WAIT_SECONDS)
        again.sendall(proxy.sent[: handshake.HELLO_BYTES])
        assert len(again.recv(1000)) == handshake.ANSWER_BYTES
        again.sendall(proxy.sent[handshake.HELLO_BYTES :])  # proof, frames
        with contextlib.suppress(ConnectionResetError):
            assert again.recv(1000) == b""
    assert shared.run.rows == [{"n": 1}]


def test_a_wrong_token_is_said_at_once(shared):
    begun = time.monotonic()
    why = f"who answers at 127.0.0.1, port {shared.address[1]} does not hold its token"
    with pytest.raises(Unreachable, match=why):
        shared.client(token=os.urandom(32))
    assert time.monotonic() < begun + SOON_SECONDS


def test_strangers_hear_nothing_and_hold_up_nobody(shared, monkeypatch):
    monkeypatch.setattr(hubs, "_PROOF_SECONDS", 1.0)
    silent = [socket.create_connection(shared.address) for _ in range(400)]
    talking = socket.create_connection(shared.address)
    talking.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n" + bytes(64))
    knocking = socket.create_connection(shared.address)
    knocking.sendall(handshake.Knock(os.urandom(16), os.urandom(16), b"").hello)
    threads = threading.active_count()
    client = shared.client()
    log(client, {"n": 1})
    assert client.close() == []
    assert shared.run.rows == [{"n": 1}]
    assert threading.active_count() <= threads + 1
    for stranger in (talking, knocking, *silent):
        stranger.settimeout(WAIT_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1000) == b""  # and at last they are sent away
        stranger.close()


def test_what_was_logged_before_the_end_arrives_and_the_rest_is_refused(shared):
    clients = [shared.client() for _ in range(3)]
    for n in range(3000):
        log(clients[n % 3], {"n": n})
    opening.end(shared.owned)  # nobody has flushed
    assert sorted(row["n"] for row in shared.run.rows) == list(range(3000))
    for client in clients:
        assert client.window.flush() == 0
        client.close()
        with pytest.raises(Unreachable, match=re.escape(FINISHED)):
            log(client, {"n": 0})
    late = shared.client()  # one that had not connected before
    assert late.close() == []
    with pytest.raises(Unreachable, match=re.escape(FINISHED)):
        log(late, {"n": 0})


def test_a_run_that_is_not_known_is_gone(shared, monkeypatch):
    monkeypatch.setattr(clients, "_GONE_SECONDS", 0.5)
    where = "127.0.0.1, port %d"
    why = f"who answers at {where % shared.address[1]} does not know it: {GONE}"
    with pytest.raises(Unreachable, match=re.escape(why)):
        Client(shared.address, os.urandom(16), shared.token, 30)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    why = f"connections to {where % port} are refused: {GONE}"
    with pytest.raises(Unreachable, match=re.escape(why)):
        shared.client(address=("127.0.0.1", port))


def test_silence_names_the_address(shared):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as behind a firewall
        port = silent.getsockname()[1]
        why = f"has not answered at 127.0.0.1, port {port} within 1 s"
        with pytest.raises(Unreachable, match=why):
            shared.client(patience=1, address=("127.0.0.1", port))


def test_a_run_that_is_long_over_is_forgotten(shared, monkeypatch):
    past = Shared()
    opening.end(past.owned)
    monkeypatch.setattr(shared_runs, "_GONE_SECONDS", 0.0)
    client = shared.client()
    client.window.flush()  # the hub has looked around meanwhile
    assert past.key not in opening.hub().runs
    assert shared.key in opening.hub().runs
    client.close()


def test_two_runs_at_once():
    one, two = Shared(), Shared()
    assert one.address == two.address and one.token != two.token
    clients = one.client(), two.client()
    for client, name in zip(clients, "ab"):
        log(client, {"name": name})
        client.close()
    assert (one.run.rows, two.run.rows) == ([{"name": "a"}], [{"name": "b"}])
    opening.end(one.owned)
    client = two.client()
    log(client, {"name": "c"})
    client.close()
    assert two.run.rows[-1] == {"name": "c"}
    opening.end(two.owned)


def test_a_thousand_workers_are_one_thread(shared):
    threads = threading.active_count()
    # Without threads of their own: the connections alone.
    from wandb_ddp_patch.borrowed.remote.wire import Wire

    wires = []
    for n in range(1000):
        knock = handshake.Knock(shared.key, os.urandom(16), shared.token)
        wires.append(Wire(shared.address, knock, 0))
        body = packing.pack_plain("log", ({"n": n},), {})
        wires[-1].send(0, [Item(1, messages.ROW, body), Item(2, messages.BYE, b"")], True)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(shared.run.rows) < 1000 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(row["n"] for row in shared.run.rows) == list(range(1000))
    assert threading.active_count() == threads
    for wire in wires:
        wire.close()


def test_where_select_takes_no_more_workers_wait_until_one_leaves(shared, monkeypatch):
    """As on Windows; tests/windows_checks.py has its own select()."""
    full = threading.Event()
    monkeypatch.setattr(wandb, "termwarn", lambda text, repeat: full.set())
    monkeypatch.setattr(hubs, "_MOST", 2)

    def work(n):
        client = shared.client()
        log(client, {"n": n})
        assert n == 2 or full.wait(WAIT_SECONDS)
        assert client.close() == []

    workers = [threading.Thread(target=work, args=(n,)) for n in (0, 1, 2)]
    for worker in workers[:2]:
        worker.start()
    while len(shared.run.rows) < 2:
        time.sleep(0.01)
    workers[2].start()
    for worker in workers:
        worker.join(WAIT_SECONDS)
    assert [row["n"] for row in shared.run.rows][2:] == [2]


# --- what is sent ---------------------------------------------------------------


def test_what_a_row_holds_is_packed_as_it_is():
    torch = pytest.importorskip("torch")
    row = {
        "one": torch.tensor(1.5, requires_grad=True),
        "more": torch.ones(3, requires_grad=True) * 2,
        "text": "x",
    }
    name, (packed,), kwargs = pickle.loads(packing.pack("log", (row,), {}).body)
    assert (name, kwargs, packed["one"], packed["text"]) == ("log", {}, 1.5, "x")
    assert packed["more"].tolist() == [2, 2, 2] and not packed["more"].requires_grad
    with pytest.raises(TypeError, match=r"What run.log\(\) was given can't be sent"):
        packing.pack("log", ({"lock": threading.Lock()},), {})


@pytest.mark.parametrize(
    ("told", "host", "port"),
    [
        ("1", None, 0),
        ("10.0.0.1", "10.0.0.1", 0),
        ("node-1:4000", "node-1", 4000),
        ("[fe80::1]:4000", "fe80::1", 4000),
        ("[::1]", "::1", 0),
        ("fe80::1", "fe80::1", 0),
    ],
)
def test_the_variable(told, host, port):
    assert opening.parse(told) == (host, port)


def test_a_variable_that_makes_no_sense():
    with pytest.raises(ValueError, match="is not 1, HOST or HOST:PORT"):
        opening.parse("host:port")


def test_the_hub_is_imported_for_shared_runs_only(fresh):
    fresh(
        """
        import pickle, sys, wandb, wandb_ddp_patch
        run = wandb.init()
        payload = pickle.dumps(run)
        assert not [name for name in sys.modules if "borrowed.remote" in name]
        assert b"token" not in payload and b"share" not in payload
        run.finish()
        """
    )
