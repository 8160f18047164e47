"""Messages of wandb's own clients, of several releases, from and to a worker elsewhere."""

import json
import os
import re
import sys

import pytest
import response_checks
from conftest import ROOT
from scripts import WORKER_ENV

RELEASES = ["0.13.11", "0.16.6", "0.18.7", "0.21.4", "0.24.2"]


SCRIPTS = ROOT / "tests" / "workers"


SECRET = response_checks.SECRET
ENV = {**WORKER_ENV, "WANDB_DDP_PATCH": "0"}


pytestmark = pytest.mark.skipif(os.name == "nt", reason="another protocol is spoken there")


@pytest.mark.parametrize("script", ["message_checks.py", "response_checks.py"])
@pytest.mark.parametrize("version", RELEASES)
def test_with_releases(run_prepared, release, version, script):
    run_prepared(SCRIPTS / script, python=release(version), env=ENV)


def test_importing_it_does_not_import_wandb(fresh):
    names = ["paths", "protocol", "requests", "responses", "rules"]
    modules = ", ".join(f"wandb_{name}" for name in names)
    code = f"""
    import sys
    from wandb_ddp_patch.transports.remote import {modules}
    print([name for name in sys.modules if name == "wandb" or name.startswith("google")])
    """
    assert fresh(code).strip() == "[]"


WORKER = """
import os, time
from types import SimpleNamespace
import wandb
from wandb.sdk.wandb_init import _attach

if wandb.__version__ == "0.13.11":  # until 0.15.4 services don't answer that offline
    from wandb.proto.wandb_internal_pb2 import Result
    from wandb.sdk.interface.interface import InterfaceBase

    answer = Result()
    answer.response.attach_response.run.run_id = os.environ["RUN_ID"]
    InterfaceBase.deliver_attach = lambda *_: SimpleNamespace(wait=lambda **_: answer)

def answer_to(handle):
    return (getattr(handle, "wait_or", None) or handle.wait)(timeout=60)

run = _attach(os.environ["RUN_ID"])
print("key", run.settings.api_key)
run.log({"loss": 1.5, "html": wandb.Html("<b>x</b>")})
run.config.update({"more": 1})
run.summary["best"] = 2
run.define_metric("accuracy", summary="max")
run.name = "renamed"
run.alert("title", "text")
with open("saved.txt", "w") as file:
    file.write("x")
run.save(os.path.abspath("saved.txt"), base_path=os.getcwd(), policy="now")
artifact = wandb.Artifact("artifact", type="dataset")
artifact.add_file("saved.txt")
run.log_artifact(artifact)
print("step", run.step)
interface = getattr(run, "_interface", None) or run._backend.interface
summary = answer_to(interface.deliver_get_summary()).response.get_summary_response
# Some releases name an item by its nested keys.
print("summary", sorted(item.key or ".".join(item.nested_key) for item in summary.item))
began = time.monotonic()
try:
    answer_to(interface.deliver_exit(0))
except Exception as error:
    print("exit", type(error).__name__, error)
print("soon", time.monotonic() - began < 30, flush=True)
os._exit(0)
"""


@pytest.fixture
def run_worker(run_prepared):
    """Run a worker beside an owner; return what the owner has seen of it."""

    def run(python):
        env = {**ENV, "WANDB_API_KEY": SECRET * 6}
        done = run_prepared(SCRIPTS / "checked_service.py", WORKER, python=python, env=env)
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def check_worker(seen, error):
    assert "key None" in seen["worker"], seen
    assert re.search(f"exit {error}", seen["worker"]), seen["worker"]
    assert "soon True" in seen["worker"]
    assert [kind for kind, _ in seen["refused"]] == ["record.exit"]
    assert {"best", "loss", "after"} <= set(seen["summary"])
    assert "saved.txt" in seen["paths"]
    assert [path for path in seen["paths"] if path.startswith("media/html/")]
    assert [path for path in seen["paths"] if "/artifacts/staging/" in path]


def test_wandbs_client_attaches_without_the_key_and_gets_errors(run_worker):
    error = "ServerResponseError .*only the process that called wandb.init"
    check_worker(run_worker(sys.executable), error)


@pytest.mark.parametrize("version", RELEASES)
def test_clients_of_releases_attach_without_the_key(run_worker, release, version):
    numbered = tuple(map(int, version.split("."))) >= (0, 19)
    error = "HandleAbandonedError" if numbered else "MailboxError transport failed"
    check_worker(run_worker(release(version)), error)
