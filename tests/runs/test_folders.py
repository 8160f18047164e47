"""Workers whose temporary folder is another one than the owner's, or is full."""

import os
import subprocess
import tempfile

import chdir_workers
import folder_workers
import pytest
from conftest import clean_env
from rows import column, read_rows
from scripts import WORKER_ENV

NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
OLD = ["0.13.11", "0.18.7", "0.21.4", "0.24.2"]

# What stands before a Python, in a shell.
AS_IT_IS = 'exec "$@"'
ANOTHER = 'TMPDIR=$TMPDIR/.. exec "$@"'
# Over the owner's folder, so that nothing of the owner's is to be seen there.
PRIVATE = 'exec unshare -m sh -c \'mount -t tmpfs none $TMPDIR && exec "$@"\' sh "$@"'
DETACHED = 'exec unshare -n "$@"'
FULL = (
    "exec unshare -m sh -c 'mount -t tmpfs -o size=64k none $TMPDIR &&"
    ' (cat /dev/zero > $TMPDIR/zeros; exec "$@")\' sh "$@"'
)


def can_mount(folder):
    command = ["sh", "-c", PRIVATE, "sh", "true"]
    return not subprocess.run(
        command, env=clean_env(TMPDIR=str(folder)), capture_output=True
    ).returncode


@pytest.fixture
def play(run_script, run_prepared, tmp_path, release):
    """Make a function that has a worker log to a run, with these before owner and worker."""

    def run(version, owner, worker):
        folder = tmp_path / "temporary"
        folder.mkdir()
        if any("unshare" in each for each in (owner, worker)) and not can_mount(folder):
            pytest.skip("needs namespaces: Linux, root")
        python = release(version)
        executable = tmp_path / "python"
        executable.write_text(f'#!/bin/sh\nset -- "{python}" "$@"\n{worker}\n')
        executable.chmod(0o755)
        start, before = run_script, ["sh", "-c", owner, "sh"]
        if owner is AS_IT_IS:
            start, before = run_prepared, ()
        output = start(
            folder_workers.__file__,
            executable,
            python=python,
            before=before,
            env={**WORKER_ENV, "TMPDIR": str(folder)},
            returncode=None,
            stderr=subprocess.STDOUT,
        ).stdout
        assert (tmp_path / "code").exists(), output
        assert (tmp_path / "code").read_text() == str(int(worker is DETACHED)), output
        return output, column(read_rows(tmp_path), "row")

    return run


@pytest.mark.parametrize("version", [None, "0.21.4", "0.16.6", "0.12.21"])
@pytest.mark.parametrize(
    ("owner", "worker"),
    [(AS_IT_IS, PRIVATE), (AS_IT_IS, ANOTHER), (AS_IT_IS, FULL), (FULL, AS_IT_IS)],
    ids=["the worker's is private", "another one", "the worker's is full", "both are full"],
)
def test_the_temporary_folder(play, version, owner, worker):
    output, rows = play(version, owner, worker)
    assert rows == list(range(folder_workers.ROWS)), output


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("0.12.21", "another container or network namespace"),
        # Its owner is seen to live: that is waited for, for a minute.
        pytest.param("0.16.6", "may be on another machine or network", marks=pytest.mark.nightly),
    ],
)
def test_a_refused_connection_means_no_more_than_it_does(play, version, why):
    output, rows = play(version, AS_IT_IS, DETACHED)
    assert why in output
    assert rows == []


LISTEN = """
import sys
from multiprocessing.connection import Client
from wandb_ddp_patch.transports import local_server
sys.platform = "another"
with local_server.listen() as listener:
    with Client(listener.address) as client, listener.accept() as accepted:
        client.send_bytes(b"row")
        print(accepted.recv_bytes().decode(), type(listener.address).__name__)
"""


@pytest.mark.parametrize(("name", "kind"), [("short", "str"), ("long" * 40, "tuple")])
def test_where_a_socket_needs_a_file(fresh, name, kind):
    with tempfile.TemporaryDirectory(name) as folder:
        assert fresh(LISTEN, TMPDIR=folder).split() == ["row", kind]


@pytest.mark.parametrize(
    ("version", "method"),
    [
        (None, "spawn"),
        pytest.param(None, "fork", marks=NO_FORK),
        ("0.16.6", "spawn"),
        *(pytest.param(version, "spawn", marks=pytest.mark.nightly) for version in OLD),
    ],
)
def test_files_of_a_worker_that_changes_its_folder_are_in_the_run(
    run_prepared, tmp_path, release, version, method
):
    """As Hydra, Ray and submitit have it; wandb alone leaves them where the worker is."""
    env = {"PYTHONWARNINGS": "ignore"}
    run_prepared(chdir_workers.__file__, method, python=release(version), env=env)
    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    (html,) = folder.glob("media/html/*.html")
    assert "bold" in html.read_text("utf-8")
    assert (folder / "saved.txt").read_text() == "saved"
    assert not (tmp_path / "elsewhere" / "wandb").exists()
