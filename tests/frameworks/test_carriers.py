"""Every carrier, the frameworks' too, takes a config, a run, a summary, a watched model and media.

Each is also tried without the patch, for the table in docs/carriers.md.
"""

import json

import arms
import carried
import carriers_clusters
import carriers_python
import carriers_training
import pytest

ALL = {
    carrier: module
    for module in (carriers_python, carriers_training, carriers_clusters)
    for carrier in module.CARRIERS
}


def carry(folder, arm, carrier):
    limit = arms.SECONDS_WITHOUT if arm == arms.WITHOUT else arms.HANG_SECONDS
    ended = arms.run(folder, arm, "carry.py", carrier, str(limit), seconds=limit * 8)
    assert ended.code == 0, ended.output
    return json.loads(ended.output.splitlines()[-1]), ended.output


@pytest.mark.parametrize("carrier", ALL)
def test_it_carries_everything(tmp_path, carrier):
    needs_the_patch = carrier.startswith("wandb_ddp_patch")
    without = None if needs_the_patch else carry(tmp_path / "without", arms.WITHOUT, carrier)[0]
    found, output = carry(tmp_path / "with", arms.WITH, carrier)
    packages = ALL[carrier].packages(carrier)
    arms.keep(carrier, packages, carrier=carrier, without=without, found=found)
    assert found == dict.fromkeys(carried.WHAT, "yes"), output
