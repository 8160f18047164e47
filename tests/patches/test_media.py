"""Artifacts without what talks to the server: it is left out of payloads, and made anew."""

import copy
import pickle
import threading

import pytest
import wandb

import wandb_ddp_patch  # noqa: F401

SECRET = "a-secret-of-the-client"


class Client:
    """What an artifact has once it was logged online; as there, with locks in it."""

    def __init__(self):
        self.lock, self.api_key = threading.Lock(), SECRET


@pytest.fixture
def logged(no_defaults):
    artifact = wandb.Artifact("artifact", "dataset")
    artifact._set_save_handle(Client(), Client())
    with artifact.new_file("file.txt") as file:
        file.write("text")
    return artifact


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_an_artifact_that_was_logged_online(logged, how):
    assert SECRET.encode() not in pickle.dumps(logged)
    twin = pickle.loads(pickle.dumps(logged)) if how == "pickle" else copy.deepcopy(logged)
    assert twin._save_handle is None
    assert twin.digest == logged.digest
    assert type(twin._service_api).__name__ == "ServiceApi"
    assert twin._service_api is twin._service_api
    assert type(logged._save_handle) is type(logged._service_api) is Client


def test_a_shallow_copy_shares_the_client_as_without_us(logged):
    twin = copy.copy(logged)
    assert twin._service_api is logged._service_api
    assert twin._save_handle is logged._save_handle
    policy = logged.manifest.storage_policy
    policy._session  # noqa: B018 - makes it
    assert copy.copy(policy)._session is policy._session


def test_an_artifact_that_was_never_logged_has_no_client(no_defaults):
    twin = pickle.loads(pickle.dumps(wandb.Artifact("artifact", "dataset")))
    assert twin._service_api is None
    assert not hasattr(twin, "no_such_name")
    assert not hasattr(type(twin).__new__(type(twin)), "no_such_name")


CLIENT = f"""
import copy, pickle, threading, types, warnings
warnings.simplefilter("ignore")
import wandb, wandb.apis.public, wandb_ddp_patch

# The real one asks the server on some releases.
wandb.apis.public.Api = lambda: types.SimpleNamespace(client="anew")

class Client:
    def __init__(self):
        self.lock, self.api_key = threading.Lock(), {SECRET!r}

artifact = wandb.Artifact("artifact", "dataset")
artifact._client = Client()
data = pickle.dumps(artifact)
assert {SECRET!r}.encode() not in data
for twin in (pickle.loads(data), copy.deepcopy(artifact)):
    policy = twin.manifest.storage_policy
    assert twin._client == "anew"
    assert type(policy._api).__name__ == "Api" and policy._handler and policy._session
    assert policy.config() == artifact.manifest.storage_policy.config()
print("made anew")
"""


@pytest.mark.parametrize("version", ["0.16.6", "0.21.4"])
def test_a_client_is_made_anew_when_it_is_asked_for(fresh, release, version):
    out = fresh(CLIENT, python=release(version), quiet=False)
    assert out.splitlines()[-1] == "made anew"
