"""Which folders hold packages, and so what a worker may import early."""

import os
import sys

import pytest

from wandb_ddp_patch.forkserver import import_audit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is measured in /proc")


def test_packages_may_lie_anywhere(tmp_path, monkeypatch):
    names = "cluster", "project", "project/cluster", "project/src", "elsewhere", "current"
    folders = {name: str(tmp_path / name) for name in names}
    monkeypatch.setattr(sys, "path", [folders["cluster"], folders["project/cluster"], *sys.path])
    sys.path.append(folders["project"])  # by PYTHONPATH=.
    script = {"dir": folders["current"], "init_main_from_path": folders["project"] + "/train.py"}
    origins = import_audit.PackageFolders(script)
    sys.path[:0] = [folders["project/src"]]  # as the script does
    packages = [os.__file__, pytest.__file__, "<frozen os>", f"{folders['cluster']}/torch/a.py"]
    packages += [f"{folders['project/cluster']}/b.py", f"{folders['elsewhere']}/editable.py"]
    own = [f"{folders['project']}/{file}" for file in ("train.py", "models/a.py", "src/b/c.py")]
    own.append(f"{folders['current']}/lib/d.py")
    assert [file for file in packages if not origins.is_package_file(file)] == []
    assert [file for file in own if origins.is_package_file(file)] == []
