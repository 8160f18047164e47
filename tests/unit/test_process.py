"""Whether another process has ended, where the system tells little of it."""

import errno
import os

import pytest

from wandb_ddp_patch import _process

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="processes are told on Linux only"
)


@pytest.mark.parametrize("why", ["ENOENT", "EPERM", "EACCES", "EMFILE", "ENFILE"])
def test_a_process_that_cannot_be_looked_at_has_not_ended(monkeypatch, why):
    pid = os.getppid()
    known = _process.process_fingerprint(pid)
    assert known and not _process.has_exited(known)

    def refuse(path, *args):
        if path == f"/proc/{pid}/stat":
            number = getattr(errno, why)
            raise OSError(number, os.strerror(number))
        return open(path, *args)

    monkeypatch.setattr(_process, "open", refuse, raising=False)
    assert not _process.has_exited(known)
    assert _process.process_fingerprint(pid) is None


def test_a_process_whose_number_nobody_has_any_more_has_ended():
    boot, namespace, _, begun = _process.process_fingerprint().split(" ")
    assert _process.has_exited(f"{boot} {namespace} {1 << 30} {begun}")
