"""Both ends of a tunnel over real sockets: a server that echoes, and clients of it."""

import asyncio
import os
import socket
import time

from limits import WAIT_SECONDS

from wandb_ddp_patch.tunnel import event_loop
from wandb_ddp_patch.tunnel.client import Client
from wandb_ddp_patch.tunnel.server import Server
from wandb_ddp_patch.tunnel.stream import Stream

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
