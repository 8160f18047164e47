"""Checks of what is done with the service's responses, for whatever release is installed.

Like message_checks.py, and run like it.
"""

import re
import sys

from message_checks import UNKNOWN_FIELD, run_all, walk

from wandb_ddp_patch.transports.remote import wandb_responses
from wandb_ddp_patch.transports.remote.wandb_protocol import has_field, server_messages

SECRET, PLAIN = "PLANTED", "harmless"

# Wider than the code's own, on purpose: what it finds is judged here.
SUSPICIOUS = re.compile(
    "key|token|secret|passw|credential|auth|header|prox|cookie|endpoint|remote_url|^_?(x_)?args$"
)
HARMLESS = {
    *("credentials_file", "identity_token_file"),  # paths
    *("auth_response", "authenticate_response"),  # what is in them is judged by its own name
    *("key", "nested_key"),  # names that users give
    "_unsaved_keys",  # names of settings
    "x_stats_coreweave_metadata_endpoint",  # the path in a URL
}


def fill(message, way, text):
    """Set the field at the end of a path of fields."""
    for field in way[:-1]:
        is_map = field.message_type.GetOptions().map_entry
        below = getattr(message, field.name)
        if is_map:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                below["name"] = text
                return
            message = below["name"]
            way = way[way.index(field) + 2 :]
            return fill(message, way, text) if way else None
        message = below.add() if hasattr(below, "add") else below
    leaf, value = way[-1], text
    if leaf.type == leaf.TYPE_BYTES:
        value = text.encode()
    holder = getattr(message, leaf.name)
    if hasattr(holder, "append"):
        holder.append(value)
    else:
        setattr(message, leaf.name, value)


def check_no_credential_goes_back():
    response = server_messages().ServerResponse
    planted = 0
    for way in walk(response.DESCRIPTOR):
        if way[-1].type not in (way[-1].TYPE_STRING, way[-1].TYPE_BYTES):
            continue
        names = [field.name for field in way]
        if not any(SUSPICIOUS.search(name) and name not in HARMLESS for name in names):
            continue
        message = response()
        fill(message, way, SECRET)
        dirty = message.SerializeToString()
        if SECRET.encode() in dirty:
            planted += 1
            clean = wandb_responses.clean_response(dirty)
            assert SECRET.encode() not in clean, names
    settings = has_field(response().inform_attach_response, "settings")
    assert planted > 5 or not settings, planted


def attach_response(**settings):
    """An answer to an attach with settings, for any release."""
    response = server_messages().ServerResponse()
    attached = response.inform_attach_response
    for name, value in settings.items():
        if not has_field(attached, "settings"):
            attached._settings_map[name].string_value = value
        elif has_field(attached.settings, name):
            getattr(attached.settings, name).value = value
    return response


def settings_of(message):
    attached = server_messages().ServerResponse.FromString(message).inform_attach_response
    if not has_field(attached, "settings"):
        return {name: attached._settings_map[name].string_value for name in attached._settings_map}
    return {field.name: value.value for field, value in attached.settings.ListFields()}


def check_what_a_worker_needs_stays():
    needed = dict.fromkeys(["base_url", "run_id", "mode", "entity", "project", "run_url"], PLAIN)
    response = attach_response(api_key=SECRET, **needed)
    clean = wandb_responses.clean_response(response.SerializeToString())
    assert settings_of(clean) == needed
    assert wandb_responses.clean_response(clean) is clean
    for other in (server_messages().ServerResponse(), response):
        other.inform_attach_response.SetInParent()
    response = server_messages().ServerResponse()
    response.result_communicate.response.get_summary_response.item.add().key = "api_key"
    message = response.SerializeToString()
    assert wandb_responses.clean_response(message) is message, "a user's own names stay"


def check_settings_by_their_names_are_cleaned():
    """Settings that come as lists or maps of names and values, as in old releases."""
    response = server_messages().ServerResponse()
    items = response.result_communicate.response.attach_response.run.settings.item
    for name in ("api_key", "mode", "_extra_http_headers", "https_proxy"):
        item = items.add()
        item.key, item.value_json = name, PLAIN if name == "mode" else SECRET
    attached = response.inform_attach_response.__class__()
    clean = wandb_responses.clean_response(response.SerializeToString())
    run = server_messages().ServerResponse.FromString(clean).result_communicate.response
    assert [item.key for item in run.attach_response.run.settings.item] == ["mode"]
    if has_field(attached, "_settings_map"):
        attached._settings_map["_proxies"].map_value.map_values["https"] = SECRET
        attached._settings_map["api_key"].string_value = SECRET
        attached._settings_map["mode"].string_value = PLAIN
        response = server_messages().ServerResponse(inform_attach_response=attached)
        assert settings_of(wandb_responses.clean_response(response.SerializeToString())) == {
            "mode": PLAIN
        }


def check_unknown_fields_do_not_go_back():
    response = attach_response(mode=PLAIN)
    before = response.SerializeToString()
    response.inform_attach_response.MergeFromString(UNKNOWN_FIELD)
    assert wandb_responses.clean_response(response.SerializeToString()) == before


def check_folders_become_the_workers():
    theirs = {
        "root_dir": "/owner",
        "wandb_dir": "/owner/wandb/",
        "sync_dir": "/owner/wandb/run-1",
        "log_user": "/owner/wandb/run-1/logs/debug.log",
        "tmp_dir": "/tmp/x",
        "base_url": "/owner/wandb/not-a-folder",
        "sync_file": "C:\\owner\\run.wandb",
    }
    message = attach_response(**theirs).SerializeToString()
    found = settings_of(wandb_responses.localize_settings(message, "/worker/"))
    assert found == {
        "root_dir": "/worker",
        "wandb_dir": "/worker",
        "sync_dir": "/worker/run-1",
        "log_user": "/worker/run-1/logs/debug.log",
        "tmp_dir": "/worker/x",
        "base_url": "/owner/wandb/not-a-folder",
        "sync_file": "/worker/run.wandb",
    }
    other = server_messages().ServerResponse()
    other.result_communicate.uuid = "uuid"
    message = other.SerializeToString()
    assert wandb_responses.localize_settings(message, "/worker") is message


CHECKS = {name: value for name, value in globals().items() if name.startswith("check_")}

if __name__ == "__main__":
    sys.exit(run_all(CHECKS))
