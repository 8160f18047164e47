"""A worker's end of a tunnel: when it says that all was sent, and when goodbye."""

import asyncio
import os
import socket
import threading
import time

import pytest
import raw_worker
from tunnel_ends import NAME, TOKEN, Echo, in_loop, wait_for

from wandb_ddp_patch.errors import RunUnreachableError
from wandb_ddp_patch.transports.remote import endpoint, records, wandb_protocol


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


def test_without_a_thread_a_worker_says_so_and_leaves_nothing(owner, monkeypatch):
    def get():
        raise RuntimeError("can't start new thread")

    worker = endpoint.Endpoint(owner.share, NAME, "", 60)
    monkeypatch.setattr(endpoint.event_loop, "get", get)
    with pytest.raises(RunUnreachableError, match="no thread can be started for it: can't start"):
        worker.open()
    assert not os.path.exists(worker.folder)


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
