"""The tunnel without sockets: TLS, proofs, offsets, whatever the network does to the bytes."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wandb_ddp_patch.tunnel import connection as connections
from wandb_ddp_patch.tunnel import tls
from wandb_ddp_patch.tunnel.connection import ClientConnection, ServerConnection
from wandb_ddp_patch.tunnel.stream import LIMIT_BYTES, Outbox, Stream
from wandb_ddp_patch.tunnel.tls import AuthenticationError, ProtocolError, TlsChannel

NAME, TOKEN = b"n" * 16, os.urandom(32)


class End:
    """A stream's end that keeps what has come, and consumes it when it is told to."""

    def __init__(self, id):
        self.came, self.waiting = bytearray(), 0
        self.stream = Stream(id, self.take)

    def take(self, data):
        self.came += data
        self.waiting += len(data)
        return False

    def consume(self):
        self.stream.consume(self.waiting)
        self.waiting = 0


class Network:
    """Two ends, and what is under way between them: to the server, and to the client."""

    def __init__(self, token=TOKEN, servers_token=TOKEN, name=NAME):
        self.client, self.server = End(b"s" * 16), None
        self.token, self.servers_token, self.name = token, servers_token, name
        self.connect()

    def connect(self):
        self.ends = [
            ClientConnection(self.client.stream, self.name, self.token),
            ServerConnection(self.find),
        ]
        self.under_way = [bytearray(), bytearray()]

    def find(self, name):
        return (self.servers_token, self.open) if name == NAME else None

    def open(self, id):
        self.server = self.server or End(id)
        return self.server.stream

    def send(self):
        for n, end in enumerate(self.ends):
            self.under_way[n] += end.output()

    def deliver(self, to, count):
        """Deliver so many bytes to the client (0) or the server (1)."""
        data = bytes(self.under_way[1 - to][:count])
        del self.under_way[1 - to][:count]
        if data:
            self.ends[to].receive(data)

    def settle(self, rounds=200):
        """Deliver all that there is, until nothing moves any more."""
        for _ in range(rounds):
            for end in (self.client, self.server):
                if end is not None:
                    end.consume()
            self.send()
            if not any(self.under_way):
                return
            for to in (0, 1):
                self.deliver(to, 1 << 30)
        raise AssertionError("it never comes to rest")

    def is_open(self):
        return all(end.stream is not None for end in self.ends)


def opened(**tokens):
    network = Network(**tokens)
    network.settle()
    assert network.is_open()
    return network


# --- what is carried -----------------------------------------------------------


def test_bytes_arrive_both_ways_and_are_dropped_once_they_have():
    network = opened()
    network.client.stream.write(b"to the server")
    network.server.stream.write(b"to the client")
    network.settle()
    assert (network.server.came, network.client.came) == (b"to the server", b"to the client")
    assert len(network.client.stream.outbox) == len(network.server.stream.outbox) == 0


def test_what_was_written_before_the_connection_goes_with_it():
    network = Network()
    network.client.stream.write(b"early")
    network.settle()
    assert network.server.came == b"early"


def test_long_writes_arrive_whole():
    network = opened()
    data = os.urandom(3 << 20)
    network.client.stream.write(data)
    network.settle()
    assert network.server.came == data


def test_two_round_trips_of_tls_and_one_of_proofs():
    network, trips = Network(), 0
    while not network.is_open():
        network.send()
        network.deliver(1, 1 << 30)
        network.send()
        network.deliver(0, 1 << 30)
        trips += 1
    assert trips == 3


CHANGES = "cut", "flip", "repeat", "swap", "lose"


@settings(deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(CHANGES), max_size=6))
def test_whatever_the_network_does_each_byte_arrives_once_and_in_order(seed, changes):
    chance = random.Random(seed)
    network, written = Network(), [b"", b""]
    changes, cuts = list(changes), 0
    for step in range(200):
        for n, end in enumerate((network.client, network.server)):
            if end is not None and chance.random() < 0.3:
                data = chance.randbytes(chance.choice((1, 10, 1000, 50_000)))
                written[n] += data
                end.stream.write(data)
            if end is not None and chance.random() < 0.3:
                end.consume()
        network.send()
        to = chance.randrange(2)
        piece = network.under_way[1 - to]
        if changes and piece and chance.random() < 0.1:
            harm(network, 1 - to, changes.pop(), chance)
        try:
            network.deliver(to, chance.choice((1, 7, 100, 5000, 1 << 20)))
        except (ProtocolError, AuthenticationError, EOFError):
            cuts += 1
            network.connect()
        if step % 40 == 39:  # bytes that are lost are seen by silence
            network.connect()
    network.connect()
    network.settle()
    assert network.server.came == written[0]
    assert network.client.came == written[1]
    assert len(network.client.stream.outbox) == len(network.server.stream.outbox) == 0


def harm(network, way, change, chance):
    """Do to what is under way what a network, or who stands in it, can do."""
    piece = network.under_way[way]
    at = chance.randrange(len(piece))
    end = min(len(piece), at + chance.choice((1, 20, 500)))
    if change == "cut":
        network.connect()
    elif change == "flip":
        piece[at] ^= 1 << chance.randrange(8)
    elif change == "repeat":
        piece[end:end] = piece[at:end]
    elif change == "swap":
        piece[at:end] = reversed(piece[at:end])
    elif change == "lose":
        del piece[at:end]


def test_an_acknowledgement_of_what_was_received_before_is_none_of_more():
    network = opened()
    network.client.stream.write(b"x" * 100)
    network.send()
    network.deliver(1, 1 << 30)  # received, and not consumed
    network.connect()
    network.settle()
    assert network.server.came == b"x" * 100
    assert len(network.client.stream.outbox) == 0


def test_a_writer_is_told_to_wait_and_a_reader_not_to_read():
    network = opened()
    assert not network.client.stream.is_full
    network.client.stream.write(b"x" * LIMIT_BYTES)
    assert network.client.stream.is_full
    while network.server.stream.received < LIMIT_BYTES:
        network.send()
        network.deliver(1, 1 << 30)
    assert network.server.stream.is_behind and network.client.stream.is_full
    network.settle()
    assert not network.server.stream.is_behind and not network.client.stream.is_full


# --- who is let in ---------------------------------------------------------------


@pytest.mark.parametrize("ends", [{"token": os.urandom(32)}, {"name": b"?" * 16}])
def test_who_does_not_hold_the_token_hears_nothing(ends):
    network = Network(**ends)
    with pytest.raises(AuthenticationError):
        network.settle()
    said = network.ends[1].output()
    assert not said and network.server is None


def test_who_answers_without_the_token_is_told_nothing():
    network = Network()
    network.client.stream.write(b"a secret")
    impostor = TlsChannel(server_side=True)
    for _ in range(3):
        impostor.receive(network.ends[0].output())
        data = impostor.output()
        if data:
            network.ends[0].receive(data)
    plain = impostor.receive(network.ends[0].output())
    assert b"secret" not in plain
    said = connections._ANSWER.pack(connections._MAGIC, 0)
    impostor.send(said + tls.prove(os.urandom(32), b"server", impostor.binding, said))
    with pytest.raises(AuthenticationError):
        network.ends[0].receive(impostor.output())


def between(network):
    """Decrypt in between, with a TLS connection to each end, and pass on what is said."""
    to_client, to_server = TlsChannel(server_side=True), TlsChannel(server_side=False)
    to_server.begin()
    pairs = list(zip(network.ends, (to_client, to_server)))
    heard = [b"", b""]
    for _ in range(8):
        for n, (end, channel) in enumerate(pairs):
            if data := end.output():
                heard[n] += channel.receive(data)
            other = pairs[1 - n][1]
            if heard[n] and other.binding:
                other.send(heard[n])
                heard[n] = b""
            if data := channel.output():
                end.receive(data)


def test_who_stands_in_between_is_seen_although_all_that_is_said_is_passed_on():
    network = Network()
    network.client.stream.write(b"a secret")
    with pytest.raises(AuthenticationError):
        between(network)
    assert network.server is None


def test_a_recorded_connection_can_not_be_replayed():
    network = Network()
    network.client.stream.write(b"once")
    recorded = []
    for _ in range(10):
        network.send()
        recorded.append(bytes(network.under_way[0]))
        network.deliver(1, 1 << 30)
        network.send()
        network.deliver(0, 1 << 30)
    assert network.server.came == b"once"
    again = ServerConnection(network.find)
    with pytest.raises((ProtocolError, AuthenticationError)):
        for data in recorded:
            again.output()
            again.receive(data)
    assert again.stream is None and network.server.came == b"once"


def test_a_proof_is_not_sent_back_as_ones_own():
    said = b"said"
    proof = tls.prove(TOKEN, b"client", b"binding", said)
    tls.check(proof, TOKEN, b"client", b"binding", said)
    for changed in (
        (os.urandom(32), b"client", b"binding", said),
        (TOKEN, b"server", b"binding", said),
        (TOKEN, b"client", b"bindinG", said),
        (TOKEN, b"client", b"binding", b"sai"),
        (TOKEN, b"client", b"bindings", b"aid"),  # the same bytes, cut elsewhere
    ):
        with pytest.raises(AuthenticationError):
            tls.check(proof, *changed)


def test_any_changed_byte_ends_the_connection_and_nothing_of_it_counts():
    for at in (5, 20, 40, -1):
        network = opened()
        network.client.stream.write(b"to be changed " * 10)
        network.send()
        network.under_way[0][at] ^= 1
        with pytest.raises(ProtocolError):
            network.deliver(1, 1 << 30)
            network.deliver(1, 1 << 30)
            raise ProtocolError("a length that was changed: more is waited for")
        assert network.server.came == b""


def test_neither_the_token_nor_what_is_said_is_on_the_wire():
    network, wire = Network(), b""
    network.client.stream.write(b"what is said")
    for _ in range(10):
        network.send()
        wire += bytes(network.under_way[0] + network.under_way[1])
        network.deliver(1, 1 << 30)
        network.deliver(0, 1 << 30)
    assert network.server.came == b"what is said"
    assert TOKEN not in wire and b"what is said" not in wire and NAME not in wire


# --- the outbox -------------------------------------------------------------------


def test_the_outbox_refuses_impossible_positions():
    outbox = Outbox()
    outbox.append(b"0123456789")
    assert outbox.next(4) == b"0123"
    with pytest.raises(ProtocolError):
        outbox.acknowledge(5)  # more than was sent
    outbox.acknowledge(3)
    outbox.acknowledge(2)  # older than one that has come
    assert (outbox.acknowledged, len(outbox), outbox.unsent) == (3, 7, 6)
    with pytest.raises(ProtocolError):
        outbox.rewind(2)  # the other end has lost what it had
    outbox.rewind(3)
    assert outbox.next(100) == b"3456789"
    with pytest.raises(ProtocolError):
        outbox.rewind(11)


def test_frames_that_make_no_sense_end_the_connection():
    for frame in (
        connections._FRAME.pack(9, 0, 0),
        connections._FRAME.pack(1, 0, 1 << 30),
        connections._FRAME.pack(1, 7, 1) + b"x",
        connections._FRAME.pack(2, 7, 0),
    ):
        network = opened()
        network.ends[0]._channel.send(frame)
        network.send()
        with pytest.raises(ProtocolError):
            network.deliver(1, 1 << 30)
