"""WANDB_DDP_PATCH_SPAWN=forkserver with frameworks that ask torch for spawn."""

import arms
import pytest


@pytest.mark.parametrize(("value", "how"), [("", "spawned"), ("forkserver", "forked")])
def test_lightnings_ddp_spawn_twice(tmp_path, value, how):
    script = "use_lightning.py", "fit_twice", "ddp_spawn"
    ended = arms.run(tmp_path / "run", arms.WITH, *script, WANDB_DDP_PATCH_SPAWN=value)
    assert ended.code == 0, ended.output
    said = [line for line in ended.output.splitlines() if line.startswith("rank ")]
    assert sorted(said) == [f"rank {rank} is {how}" for rank in (0, 0, 1, 1)]
    assert "RuntimeWarning: wandb_ddp_patch" not in ended.output
    rows = arms.rows(tmp_path / "run")
    assert (rows["rank 0"], rows["rank 1"], rows["owner"]) == (8, 8, 1)
