"""Messages of wandb's own clients, of several releases, from and to a worker elsewhere."""

import json
import os
import re
import subprocess
import sys

import pytest
import response_checks
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

RELEASES = ["0.13.11", "0.16.6", "0.18.7", "0.21.4", "0.24.2"]


SCRIPTS = str(ROOT / "tests" / "workers")


SECRET = response_checks.SECRET


pytestmark = pytest.mark.skipif(os.name == "nt", reason="wandb's service speaks elsewise there")


@pytest.mark.parametrize("script", ["message_checks.py", "response_checks.py"])
@pytest.mark.parametrize("version", RELEASES)
def test_with_releases(release, version, script, tmp_path):
    done = subprocess.run(
        [release(version), os.path.join(SCRIPTS, script)],
        cwd=tmp_path,
        env=clean_env(WANDB_DDP_PATCH="0"),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_it_does_not_import_wandb(fresh):
    names = ["kinds", "paths", "protocol", "requests", "responses"]
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


def run_worker(python, tmp_path):
    done = subprocess.run(
        [python, os.path.join(SCRIPTS, "checked_service.py"), WORKER],
        cwd=tmp_path,
        env=clean_env(WANDB_DDP_PATCH="0", WANDB_API_KEY=SECRET * 6, PYTHONWARNINGS="ignore"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_worker(seen, error):
    assert "key None" in seen["worker"], seen
    assert re.search(f"exit {error}", seen["worker"]), seen["worker"]
    assert "soon True" in seen["worker"]
    assert [kind for kind, _ in seen["refused"]] == ["record.exit"]
    assert {"best", "loss", "after"} <= set(seen["summary"])
    assert "saved.txt" in seen["paths"]
    assert [path for path in seen["paths"] if path.startswith("media/html/")]
    assert [path for path in seen["paths"] if "/artifacts/staging/" in path]


def test_wandbs_client_attaches_without_the_key_and_gets_errors(tmp_path):
    error = "ServerResponseError .*only the process that called wandb.init"
    check_worker(run_worker(sys.executable, tmp_path), error)


@pytest.mark.parametrize("version", RELEASES)
def test_clients_of_releases_attach_without_the_key(release, version, tmp_path):
    numbered = tuple(map(int, version.split("."))) >= (0, 19)
    error = "HandleAbandonedError" if numbered else "MailboxError transport failed"
    check_worker(run_worker(release(version), tmp_path), error)
