"""The probes of runs, with their workers on another machine: in namespaces of their own."""

import json
import sys

import elsewhere_jobs
import elsewhere_probes
import elsewhere_uses
import pytest
from limits import HANG_SECONDS
from machines import ADDRESSES, same_machines, short_machines  # noqa: F401

nightly = pytest.mark.nightly
# What a probe says of workers that were handed a run. The others are of a process's own run,
# or of what it gives to the workers that it starts itself.
DAILY = ("run-forward", "summaries")
PROBES = [
    *("run-config", "run-spawn", "run-rows", "run-finish", "run-owner-finished"),
    *("run-forward", "run-gone", "run-disabled"),
    *("summary-copy", "summary-finished", "summary-fork"),
    *("media-artifact", "media-logged", "watch-worker"),
]
# Than wandb alone.
NEED_MORE = ("watch-worker", "models", "media")


def found(machines, *probes, python=sys.executable, share=ADDRESSES, **env):
    """Run probes on machine 0, with their workers on machine 1; say what was wrong."""
    env = {"own_pids": True, "PYTHONWARNINGS": "ignore", **env}
    shares = [{"WANDB_DDP_PATCH_SHARE": host} for host in share]
    with open(machines.folder / "machine", "w") as output:
        script = elsewhere_jobs.__file__, "machine"
        machines.start(1, python, *script, output=output, **shares[1], **env)
        owner = machines.start(0, python, elsewhere_probes.__file__, *probes, **shares[0], **env)
        said = owner.communicate(timeout=HANG_SECONDS)[0]
    assert owner.returncode == 0, said
    return json.loads(said.splitlines()[-1]), (machines.folder / "machine").read_text()


@pytest.fixture(scope="module")
def daily(same_machines):  # noqa: F811
    return found(same_machines, *DAILY)


@pytest.mark.xdist_group("probes elsewhere")
@pytest.mark.parametrize("name", DAILY)
def test_workers_are_elsewhere(daily, name):
    wrong, said = daily
    assert wrong.keys() == set(DAILY)
    assert wrong[name] is None, said


@nightly
@pytest.mark.parametrize("name", [*PROBES, *elsewhere_uses.USES])
def test_the_workers_are_elsewhere(short_machines, name):  # noqa: F811
    wrong, said = found(short_machines, name)
    assert wrong == {name: None}, said


@nightly
@pytest.mark.parametrize("version", ["0.13.11", "0.16.6", "0.18.7", "0.21.4"])
@pytest.mark.parametrize("which", [PROBES, elsewhere_uses.USES], ids=["probes", "uses"])
def test_on_other_releases(short_machines, release, version, which):  # noqa: F811
    """Without what needs torch; tables don't return offline on 0.18.7, see machine_roles.py."""
    names = [name for name in which if name not in NEED_MORE]
    wrong, said = found(short_machines, *names, python=release(version))
    assert wrong == dict.fromkeys(names), said


@nightly
def test_they_are_about_sharing(short_machines):  # noqa: F811
    """Where the run is not shared, each fails for that reason."""
    names = ["run-rows", "run-finish", "methods", "copies"]
    wrong, said = found(short_machines, *names, share=("0", "0"))
    assert wrong.keys() == set(names)
    for name, why in wrong.items():
        assert "on another machine and the run is not shared" in (why or ""), (name, said)
