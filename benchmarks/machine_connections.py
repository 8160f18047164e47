"""Many tunnels to the owner of a run from one process: machines.py counts what arrives.

    machine_connections.py COUNT ROWS       and the run's payload on standard input

Each logs so many rows under the key "many", by messages of wandb's own; then it waits until the
owner has all, while all others are open, too.
"""

import asyncio
import base64
import os
import pickle
import resource
import sys
import time

from wandb.proto import wandb_server_pb2

from wandb_ddp_patch.transports.remote import records
from wandb_ddp_patch.tunnel import event_loop
from wandb_ddp_patch.tunnel.client import Client
from wandb_ddp_patch.tunnel.stream import ID_BYTES, Stream

# So many connect at a time: all of them share this process's one thread.
TOGETHER = 128
TIMEOUT_SECONDS = 60.0


def row(run_id, number):
    """Make the message by which run.log({"many": number}) goes to W&B's service."""
    request = wandb_server_pb2.ServerRequest()
    record = request.record_publish
    record._info.stream_id = run_id
    history = record.request.partial_history
    history.action.flush = True
    history.item.add(key="many", value_json=str(number))
    return records.encode(records.MESSAGE, request.SerializeToString())


class Connection:
    """A tunnel that a worker would have.

    Args:
        content: The run's payload.
    """

    def __init__(self, content):
        share = content["share"]
        self.failed = None
        self.connected = asyncio.Event()
        self.stream = Stream(os.urandom(ID_BYTES), self.receive)
        self.client = Client(
            self.stream,
            (share["host"], share["port"]),
            bytes.fromhex(content["key"]),
            share["token"],
            TIMEOUT_SECONDS,
            self.end,
            self.connected.set,
        )

    def receive(self, data):
        self.stream.consume(len(data))
        return False

    def end(self, error):
        self.failed = error
        self.connected.set()


async def log(connection, rows, room):
    async with room:
        connection.client.start()
        await connection.connected.wait()
    connection.stream.write(b"".join(rows))


async def log_by_all(content, count, rows):
    """Connect them all; return the error of one that has failed, or None."""
    room, run_id = asyncio.Semaphore(TOGETHER), content["metadata"]["id"]
    connections = [Connection(content) for _ in range(count)]
    await asyncio.gather(
        *(
            log(connection, [row(run_id, rows * n + m) for m in range(rows)], room)
            for n, connection in enumerate(connections)
        )
    )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and any(len(c.stream.outbox) for c in connections):
        await asyncio.sleep(0.05)
    for connection in connections:
        connection.stream.write(records.encode(records.BYE))
    await asyncio.sleep(1.0)  # until it is sent
    return next((c.failed for c in connections if c.failed is not None), None)


def main(count, rows):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    content = pickle.loads(base64.b64decode(sys.stdin.read()))
    all_logging = log_by_all(content, count, rows)
    failed = asyncio.run_coroutine_threadsafe(all_logging, event_loop.get()).result()
    if failed is not None:
        sys.exit(f"a connection has failed: {failed}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
