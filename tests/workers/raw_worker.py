"""A worker elsewhere that says what it likes: the tunnel, and messages made by hand."""

import asyncio
import os
import time

from limits import WAIT_SECONDS
from wandb.proto import wandb_internal_pb2 as internal
from wandb.proto import wandb_server_pb2 as server

from wandb_ddp_patch.transports.remote import records
from wandb_ddp_patch.tunnel import event_loop
from wandb_ddp_patch.tunnel.client import Client
from wandb_ddp_patch.tunnel.stream import Stream


def in_loop(function, *args):
    """Call something in the thread of the tunnels; return what it returns."""

    async def call():
        return function(*args)

    return asyncio.run_coroutine_threadsafe(call(), event_loop.get()).result(WAIT_SECONDS)


class RawWorker:
    """A connection to the owner of a run.

    Attributes:
        heard: The records that have come, kind and body.
        why: Why the tunnel could not be had.
    """

    def __init__(self, key, share):
        self.heard, self.why, self.bytes = [], None, b""
        self._decoder = records.decoder()
        self.stream = Stream(os.urandom(16), self._receive)
        address = share["host"], share["port"]
        self._client = Client(
            self.stream, address, bytes.fromhex(key), share["token"], 60, self._end
        )
        in_loop(self._client.start)

    def _receive(self, data):
        self.bytes += data
        self.heard.extend(self._decoder.feed(data))
        self.stream.consume(len(data))
        return False

    def _end(self, why):
        self.why = why

    def say(self, kind, body=b""):
        in_loop(self.stream.write, records.encode(kind, body))

    def send(self, request):
        self.say(records.MESSAGE, request.SerializeToString())

    def wait(self, kind):
        """Return the body of the next record of a kind."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            for number, (found, body) in enumerate(self.heard):
                if found == kind:
                    del self.heard[number]
                    return body
            assert time.monotonic() < deadline, (kind, self.heard, self.why)
            time.sleep(0.005)

    def ask(self, request):
        """Return the service's answer to a request."""
        self.send(request)
        return server.ServerResponse.FromString(self.wait(records.MESSAGE))

    def close(self):
        in_loop(self._client.close)


def attach(run_id):
    """Make the request by which wandb's client attaches."""
    request = server.ServerRequest(request_id="attach")
    request.inform_attach._info.stream_id = run_id
    return request


def row(run_id, **items):
    """Make the request by which wandb's client logs a row."""
    record = internal.Record()
    record._info.stream_id = run_id
    for key, value in items.items():
        record.request.partial_history.item.add(key=key, value_json=str(value))
    record.request.partial_history.action.flush = True
    return server.ServerRequest(record_publish=record)


def summary(run_id):
    """Make the request by which wandb's client asks for the summary."""
    record = internal.Record()
    record._info.stream_id = run_id
    record.request.get_summary.SetInParent()
    record.control.mailbox_slot = "summary"
    return server.ServerRequest(request_id="summary", record_publish=record)


def files(run_id, *paths):
    """Make the request by which wandb's client has files of the run's uploaded."""
    record = internal.Record()
    record._info.stream_id = run_id
    for path in paths:
        record.files.files.add(path=path)
    return server.ServerRequest(record_publish=record)
