"""Enforces the rule of this folder: its tests start no process, and so no service of wandb's."""

import multiprocessing.util
import os
import subprocess

import pytest
from hypothesis import settings

# Each commit tries few examples of each property, so that these tests take seconds; each night
# many are tried: pytest tests/unit --hypothesis-profile=thorough.
settings.register_profile("quick", max_examples=20)
settings.register_profile("thorough", max_examples=150)
settings.load_profile("quick")

# Each process is started by one of these, whoever asks for it: multiprocessing, asyncio, wandb.
STARTS = [
    (subprocess.Popen, "_execute_child"),
    (multiprocessing.util, "spawnv_passfds"),
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
]


@pytest.fixture(autouse=True)
def no_process(request, monkeypatch):
    """Make a test fail that starts a process, also where it handles the error."""
    tried = []

    def refuse(name):
        def start(*args, **kwargs):
            tried.append(name)
            raise AssertionError(
                f"a test in tests/unit must start no process, and this one calls {name}():"
                " it belongs into another folder of tests/"
            )

        return start

    for owner, name in STARTS:
        if hasattr(owner, name):
            monkeypatch.setattr(owner, name, refuse(f"{owner.__name__}.{name}"))
    yield
    if tried:
        pytest.fail(f"a test in tests/unit must start no process, and this one did by {tried}")
