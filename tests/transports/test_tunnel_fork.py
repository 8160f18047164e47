"""A fork of a process that has tunnels open."""

import os

import pytest
from tunnel_ends import Caller, Echo, wait_for

from wandb_ddp_patch.tunnel import event_loop


@pytest.fixture
def echo():
    return Echo()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_lets_go_of_the_sockets_and_harms_nothing(echo):
    caller = Caller(echo.address)
    caller.write(b"before")
    wait_for(lambda: caller.came == b"before")
    child = os.fork()
    if child == 0:
        try:
            event_loop.drop_inherited_loop()
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
