"""What the stand-in answers at /graphql.

Queries are told apart by the name of their operation, which wandb gives to each; their
variables are all that is read. What has no answer here is an error for the client, and
kept in ``State.unknown``, so that a test can see it.
"""

import json
import re

from .state import Run, Sweep

ENTITY = "somebody"
PROJECT = "uncategorized"

# What wandb asks whether this server knows it, up to 0.17: by type.
FIELDS = {
    "Query": ["serverInfo", "viewer", "model", "project"],
    "Mutation": ["createRunFiles"],
    "ServerInfo": ["cliVersionInfo", "latestLocalVersionInfo", "features"],
}
VIEWER = {
    "id": "id-of-somebody",
    "entity": ENTITY,
    "username": ENTITY,
    "name": ENTITY,
    "email": "somebody@example.com",
    "admin": False,
    "flags": "{}",
    "teams": {"edges": [{"node": {"name": ENTITY}}]},
    "apiKeys": {"edges": []},
}
SERVER = {
    "cliVersionInfo": {"max_cli_version": "99.0.0"},
    "latestLocalVersionInfo": None,
    "features": [],
}


class Unknown(Exception):
    """There is no answer to that."""


def answer(state, query, variables, base_url, key):
    """Answer a query.

    Raises:
        Unknown: It is none that wandb was seen to send.
    """
    if "__type(" in query:
        return _types(query)
    match = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
    name = match and match.group(1)
    if name == "Model":  # up to 0.10 most have this name
        name = next((name for name, part in MODELS.items() if part in query), None)
    if name not in ANSWERS:
        raise Unknown(query)
    with state.lock:
        return ANSWERS[name](state, variables, base_url, key)


def _types(query):
    asked = re.findall(r"(?:(\w+)\s*:\s*)?__type\(\s*name:\s*\"(\w+)\"\s*\)", query)
    answers = {}
    for alias, name in asked:
        fields = [{"name": field} for field in FIELDS.get(name, [])]
        answers[alias or "__type"] = {"name": name, "fields": fields, "inputFields": []}
    return answers


def _viewer(state, variables, base_url, key):
    return {"viewer": VIEWER, "serverInfo": SERVER}


def _organization(state, variables, base_url, key):
    return {"organization": {"featureFlags": []}, "entity": {"organization": None}}


# --- runs -------------------------------------------------------------------


def _upsert_bucket(state, variables, base_url, key):
    entity, project = variables.get("entity") or ENTITY, variables.get("project") or PROJECT
    by_id = [run for run in state.runs.values() if run.id == variables.get("id")]
    name = by_id[0].name if by_id else variables["name"]
    if by_id:
        entity, project = by_id[0].entity, by_id[0].project
    inserted = state.run(entity, project, name) is None
    run = state.run(entity, project, name, make=True)
    run.keys[key] += 1
    if variables.get("config"):
        run.raw_config = json.loads(variables["config"])
    if variables.get("summaryMetrics"):
        run.summary_metrics = variables["summaryMetrics"]
    run.display_name = variables.get("displayName") or run.display_name
    run.sweep = variables.get("sweep") or run.sweep
    return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}


def _bucket(run: Run):
    lines = {
        what: list(run.files[f"wandb-{what}.jsonl"].values()) for what in ("history", "events")
    }
    return {
        "id": run.id,
        "name": run.name,
        "displayName": run.display_name,
        "description": "",
        "sweepName": run.sweep,
        "project": {
            "id": f"id-of-{run.project}",
            "name": run.project,
            "entity": {"id": f"id-of-{run.entity}", "name": run.entity},
        },
        "config": json.dumps(run.raw_config),
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(lines["history"]),
        "eventsLineCount": len(lines["events"]),
        "logLineCount": len(run.files["output.log"]),
        "historyTail": json.dumps(lines["history"][-1:]),
        "eventsTail": json.dumps(lines["events"][-1:]),
        "tags": [],
        "notes": None,
        "stopped": False,
        "wandbConfig": json.dumps({"t": 1}),
    }


def _resume_status(state, variables, base_url, key):
    entity, project = variables.get("entity") or ENTITY, variables.get("project") or PROJECT
    run = state.run(entity, project, variables["name"])
    return {
        "model": {
            "id": f"id-of-{project}",
            "name": project,
            "entity": {"id": f"id-of-{entity}", "name": entity},
            "bucket": run and _bucket(run),
        }
    }


def _stopped_status(state, variables, base_url, key):
    return {"project": {"run": {"stopped": False}}}


def _upload_urls(state, variables, base_url, key):
    place = variables.get("entity") or ENTITY, variables["name"], variables["run"]
    run = state.run(*place, make=True)
    nodes = [
        {"node": {"name": name, "url": _url(base_url, run, name), "updatedAt": None}}
        for name in variables["files"]
    ]
    files = {"uploadHeaders": [], "edges": nodes}
    return {"model": {"bucket": {"id": run.id, "files": files}}}


def _create_run_files(state, variables, base_url, key):
    place = variables.get("entity") or ENTITY, variables["project"], variables["run"]
    run = state.run(*place, make=True)
    files = [{"name": name, "uploadUrl": _url(base_url, run, name)} for name in variables["files"]]
    return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}


def _url(base_url, run, name):
    return f"{base_url}/uploads/{run.entity}/{run.project}/{run.name}/{name}"


def _files_uploaded(state, variables, base_url, key):
    return {"markRunFilesUploaded": {"success": True}}


# --- sweeps -----------------------------------------------------------------


def _upsert_sweep(state, variables, base_url, key):
    entity, project = variables.get("entityName") or ENTITY, variables.get("projectName") or PROJECT
    sweep = Sweep(f"sweep{len(state.sweeps)}", entity, project)
    state.sweeps[sweep.name] = sweep
    # The config is YAML, or JSON, which is YAML too: of it, only a list of values is read.
    ((parameter, values),) = re.findall(r"(\w+):\s*values:((?:\s*- \S+)+)", variables["config"])
    sweep.plan(parameter, [json.loads(value) for value in re.findall(r"- (\S+)", values)])
    place = {"id": f"id-of-{project}", "name": project, "entity": {"id": "e", "name": entity}}
    found = {"id": f"id-of-{sweep.name}", "name": sweep.name, "project": place}
    return {"upsertSweep": {"sweep": found, "configValidationWarnings": []}}


def _create_agent(state, variables, base_url, key):
    name = f"agent{len(state.agents)}"
    state.agents[name] = state.sweeps[variables["sweep"]]
    return {"createAgent": {"agent": {"id": name}}}


def _heartbeat(state, variables, base_url, key):
    agent = variables["id"]
    # The next run once the last one has ended: as W&B's server does.
    busy = json.loads(variables.get("runState") or "{}")
    commands = state.agents[agent].commands
    now = [] if busy or not commands else [commands.pop(0)]
    return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(now)}}


MODELS = {
    "RunResumeStatus": "missingOk",
    "RunStoppedStatus": "stopped",
    "RunUploadUrls": "url(upload: true)",
}
ANSWERS = {
    "Viewer": _viewer,
    "ServerInfo": _viewer,
    "ServerFeaturesQuery": _viewer,
    "OrgFeatureFlags": _organization,
    "OrganizationCoreWeaveOrganizationID": _organization,
    "UpsertBucket": _upsert_bucket,
    "RunResumeStatus": _resume_status,
    "RunStoppedStatus": _stopped_status,
    "RunUploadUrls": _upload_urls,
    "CreateRunFiles": _create_run_files,
    "MarkRunFilesUploaded": _files_uploaded,
    "UpsertSweep": _upsert_sweep,
    "CreateAgent": _create_agent,
    "Heartbeat": _heartbeat,
}
