"""The owner's file that can't be made, or is another's."""

import os
import tempfile

import pytest

from wandb_ddp_patch.runs import liveness


@pytest.mark.parametrize("folder", ["read-only", "missing"])
def test_without_a_temporary_folder_there_is_no_file(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(liveness, "_own", None)
    place = tmp_path / folder
    if folder == "read-only":
        place = "/proc"  # root may write elsewhere
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert liveness.ensure_owner_file() is None
    assert not liveness.OwnerWatch(None, "some run").is_finished()


def test_a_file_that_is_not_ours_tells_nothing(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"\1")
    link.symlink_to(real)
    assert not liveness.OwnerWatch(str(link), "some run").is_finished()
    assert real.exists()
    os.mkfifo(tmp_path / "pipe")
    assert not liveness.OwnerWatch(str(tmp_path / "pipe"), "some run").is_finished()
