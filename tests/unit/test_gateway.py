"""The owner's end of a tunnel, and its connection to a service that can't take it at once."""

import contextlib
import os
import socket

import pytest
from limits import SOON_SECONDS
from tunnel_ends import in_loop, wait_for

from wandb_ddp_patch.transports.remote.gateway import SharedRun

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


class Service:
    """A socket like that of W&B's service, which accepts when it is told to."""

    def __init__(self, folder):
        self.path = str(folder / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(0)
        self.listener.setblocking(False)

    def open_session(self):
        name = f"3-{os.getpid()}-unix-{self.path}"
        run = SharedRun(b"n" * 16, b"t" * 32, ("id", "entity", "project"), name, self.path + "f")
        in_loop(run.open_stream, b"s" * 16)
        return run.sessions[b"s" * 16]

    def has_accepted(self):
        with contextlib.suppress(BlockingIOError):
            self.listener.accept()[0].close()
            return True
        return False


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.listener.close()


def test_a_service_at_which_too_many_are_connecting_is_tried_again(service):
    others = []
    with contextlib.suppress(BlockingIOError):
        while True:
            others.append(socket.socket(socket.AF_UNIX))
            others[-1].setblocking(False)
            others[-1].connect(service.path)
    session = service.open_session()
    in_loop(lambda: None)
    assert session.transport is None and not session.is_closed
    for _ in others[:-1]:
        assert service.has_accepted()
    wait_for(service.has_accepted)
    wait_for(lambda: session.transport is not None)
    for other in others:
        other.close()


def test_an_owner_without_a_descriptor_left_makes_room_for_its_worker(service):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    in_loop(lambda: None)  # the loop needs some
    try:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 8, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        session = service.open_session()
        wait_for(lambda: session.transport is not None or session.is_closed)
        assert not session.is_closed
        wait_for(service.has_accepted)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_service_that_has_gone_is_not_waited_for(service):
    service.listener.close()
    session = service.open_session()
    wait_for(lambda: session.is_closed, SOON_SECONDS)
