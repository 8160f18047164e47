"""The examples that need a framework run, and what they log arrives."""

import arms
from conftest import ROOT


def test_lightning(tmp_path):
    ended = arms.run(tmp_path / "run", arms.WITH, ROOT / "examples" / "lightning_ddp.py")
    assert ended.code == 0, ended.output
    rows = arms.rows(tmp_path / "run")
    # 512 points in batches of 32, in two ranks, three epochs; every fourth step is logged.
    assert rows["loss"] == 6
    assert rows["norm in rank 0"] == rows["norm in rank 1"] == 3
