"""Checks of what is done with a worker's requests, for whatever release is installed.

Plain asserts, for the environments of old releases have no pytest: run as a script, it runs
all functions that are named check_*.
"""

import gzip
import json
import os
import re
import sys
import tempfile
import traceback

from wandb_ddp_patch.transports.remote import sent_files, wandb_requests
from wandb_ddp_patch.transports.remote.wandb_paths import FIELDS, PathType, path_fields
from wandb_ddp_patch.transports.remote.wandb_protocol import (
    has_field,
    is_waited_for,
    kind_and_body,
    server_messages,
)
from wandb_ddp_patch.transports.remote.wandb_rules import (
    _CLOSING,
    _FORWARDED,
    _REFUSED,
    RULES,
    Action,
)

RUN, OTHER, STAGING = "run12345", "other678", "/staging/"

# What must never be let through, whatever the table says one day.
FORBIDDEN = [
    "inform_init",
    "inform_start",
    "inform_finish",
    "init_sync",
    "sync",
    "sync_status",
    "authenticate",
    "api_init_request",
    "api_request",
    "api_cleanup_request",
    "sweep_scheduler_init",
    "sweep_scheduler_next_task",
    "sweep_scheduler_stop",
    "record.exit",
    "record.final",
    "record.footer",
    "record.header",
    "record.output",
    "record.output_raw",
    "record.environment",
    "record.stats",
    "record.api_request",
    "request.defer",
    "request.shutdown",
    "request.sync",
    "request.sync_finish",
    "request.login",
    "request.run_start",
    "request.run_finish_without_exit",
    "request.test_inject",
    "request.sender_read",
    "request.sender_mark",
    "request.status_report",
    "request.download_artifact",
    "request.python_packages",
    "request.poll_exit",
    "request.pause",
    "request.resume",
    "request.metadata",
    "request.artifact_send",
]
CLOSING = ["inform_teardown", "inform_detach"]


def allowed(path):
    """Only what is in the staging folder, which is elsewhere here."""
    return path.replace(STAGING, "/here/") if path.startswith(STAGING) else None


def checker():
    return wandb_requests.RequestCheck(RUN, allowed, "entity", "project")


def oneof_kinds():
    """All kinds of requests that this release has."""
    request = server_messages().ServerRequest.DESCRIPTOR
    kinds = []
    for field in request.oneofs_by_name["server_request_type"].fields:
        if field.name not in ("record_publish", "record_communicate"):
            kinds.append(field.name)
    record = request.fields_by_name["record_publish"].message_type
    for field in record.oneofs_by_name["record_type"].fields:
        if field.name != "request":
            kinds.append("record." + field.name)
    said = record.fields_by_name["request"].message_type
    return kinds + ["request." + f.name for f in said.oneofs_by_name["request_type"].fields]


def forwarded_kinds():
    return [kind for kind in oneof_kinds() if RULES[kind].action is Action.FORWARD]


def make(kind, run=RUN, waited=False):
    """A request of a kind, about a run; return it, and the message of that kind in it."""
    request = server_messages().ServerRequest()
    group, _, name = kind.rpartition(".")
    if not group:
        body = getattr(request, name)
    else:
        record = request.record_publish
        body = getattr(record.request if group == "request" else record, name)
        record._info.stream_id = run
        record.uuid = "uuid"
        if waited:
            record.control.mailbox_slot = "slot"
    body.SetInParent()
    if has_field(body, "_info") and not group:
        body._info.stream_id = run
    set_run(kind, body, run)
    if waited and has_request_id():
        request.request_id = "slot"
    return request, body


def set_run(kind, body, run):
    if kind == "request.attach":
        body.attach_id = run
    about = getattr(body, "artifact", None) if kind == "request.log_artifact" else body
    if kind in ("record.run", "record.artifact", "request.log_artifact"):
        about.run_id, about.entity, about.project = run, "entity", "project"


def has_request_id():
    return "request_id" in server_messages().ServerRequest.DESCRIPTOR.fields_by_name


def verdict_of(request):
    return checker().check(request.SerializeToString())


def check_every_kind_has_a_rule():
    unknown = [kind for kind in oneof_kinds() if kind not in RULES]
    assert not unknown, f"a release of wandb has kinds that are not judged: {unknown}"


def check_no_kind_has_two_rules():
    # The last one would hold, whatever the other one says.
    listed = " ".join([_FORWARDED, _CLOSING, *_REFUSED.values()]).split()
    assert len(listed) == len(RULES), [kind for kind in RULES if listed.count(kind) > 1]


def check_each_kind_gets_its_verdict():
    for kind in oneof_kinds():
        for waited in [False, True] if "." in kind else [False]:
            request, _ = make(kind, waited=waited)
            verdict = verdict_of(request)
            assert verdict.action is RULES[kind].action, (kind, verdict)
            assert verdict.changed is None, kind
            assert bool(verdict.reason) == (verdict.action is Action.REFUSE), kind
            if "." in kind:
                assert verdict.is_waited_for == waited, kind


def check_what_ends_or_redefines_a_run_is_refused():
    for kind in oneof_kinds():
        if kind in FORBIDDEN:
            assert verdict_of(make(kind)[0]).action is Action.REFUSE, kind
        assert (verdict_of(make(kind)[0]).action is Action.CLOSE) == (kind in CLOSING), kind


def check_other_runs_are_refused():
    for kind in forwarded_kinds():
        if kind == "cancel":
            continue  # it is about a request, not about a run
        for run in (OTHER, "", RUN + "x"):
            assert verdict_of(make(kind, run)[0]).action is Action.REFUSE, (kind, run)
        request, body = make(kind)
        if has_field(body, "_info") and has_field(body._info, "stream_id"):
            body._info.stream_id = OTHER
            expected = Action.FORWARD if kind == "request.partial_history" else Action.REFUSE
            assert verdict_of(request).action is expected, kind
        request, body = make(kind)
        set_run(kind, body, OTHER)
        if request != make(kind)[0]:
            assert verdict_of(request).action is Action.REFUSE, kind


def check_the_owner_says_whose_run_it_is():
    for kind in ("record.run", "record.artifact", "request.log_artifact"):
        request, body = make(kind)
        about = body.artifact if kind == "request.log_artifact" else body
        about.entity, about.project = "somebody", "elsewhere"
        about = kind_and_body(changed_by_check(request))[1]
        about = about.artifact if kind == "request.log_artifact" else about
        assert (about.entity, about.project) == ("entity", "project")


def check_artifacts_are_linked_in_the_runs_project_only():
    for kind in ("record.link_artifact", "request.link_artifact"):
        if kind not in oneof_kinds():
            continue
        own = {"client_id": "x", "portfolio_entity": "entity", "portfolio_project": "project"}
        others = [{"portfolio_entity": "somebody"}, {"portfolio_project": "elsewhere"}]
        others += [{"portfolio_organization": "somebody"}, {"client_id": "", "server_id": "x"}]
        for changed in ({}, *others):
            request, body = make(kind)
            fields = {k: v for k, v in {**own, **changed}.items() if has_field(body, k)}
            for name, value in fields.items():
                setattr(body, name, value)
            is_other = any(name in fields for name in changed)
            expected = Action.REFUSE if is_other else Action.FORWARD
            assert verdict_of(request).action is expected, (kind, changed)


def check_a_worker_renames_a_run_and_no_more():
    request, body = make("record.run")
    body.display_name, body.notes = "name", "notes"
    body.tags.append("tag")
    wanted = request.SerializeToString()
    body.storage_id, body.sweep_id, body.host, body.git.commit = ("x",) * 4
    assert changed_by_check(request).SerializeToString() == wanted


def changed_by_check(request):
    verdict = verdict_of(request)
    assert verdict.action is Action.FORWARD, verdict
    return server_messages().ServerRequest.FromString(verdict.changed)


UNKNOWN_FIELD = b"\xfa\xff\x3f\x01x"  # number 131071, one byte


def check_unknown_fields_are_refused():
    for kind in forwarded_kinds():
        request, body = make(kind)
        places = [request, body]
        if "." in kind:
            places += [request.record_publish]
        if kind.startswith("request."):
            places += [request.record_publish.request]
        for place in places:
            before = request.SerializeToString()
            place.MergeFromString(UNKNOWN_FIELD)
            assert verdict_of(request).action is Action.REFUSE, (kind, place)
            request.DiscardUnknownFields()
            assert request.SerializeToString() == before
    # A kind that these classes don't know.
    said = server_messages().ServerRequest()
    said.record_publish._info.stream_id = RUN
    assert verdict_of(said).action is Action.REFUSE
    said.record_publish.MergeFromString(UNKNOWN_FIELD)
    assert verdict_of(said).action is Action.REFUSE
    assert verdict_of(server_messages().ServerRequest()).action is Action.REFUSE
    assert checker().check(UNKNOWN_FIELD).action is Action.REFUSE


def check_who_waits_for_an_answer():
    for waited in (False, True):
        request, _ = make("request.get_summary", waited=waited)
        assert is_waited_for(request) == waited
        assert verdict_of(request).is_waited_for == waited
    request, _ = make("request.get_summary")
    # As releases before 0.19 ask some things.
    request.record_communicate.CopyFrom(request.record_publish)
    assert verdict_of(request).is_waited_for
    assert verdict_of(request).action is Action.FORWARD
    request.record_communicate._info.stream_id = OTHER
    assert verdict_of(request).action is Action.REFUSE
    assert verdict_of(make("inform_attach")[0]).is_waited_for


def check_what_cannot_be_read_ends_the_connection():
    for message in (b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xff"):
        assert checker().check(message).action is Action.CLOSE, message
        assert wandb_requests.refusal(message, "why") is None


def check_rows_pass_as_they_are():
    for kind in ("record.history", "request.partial_history"):
        request, body = make(kind)
        item = body.item.add()
        item.key, item.value_json = "loss", "0.5"
        body.step.num = 4
        request.record_publish.control.local = True
        verdict = verdict_of(request)
        assert verdict is wandb_requests.FORWARD
        assert not is_waited_for(request)
        assert paths_in(request) == []


def paths_in(request):
    return [(field.path, field.type) for field in path_fields(*kind_and_body(request))]


def set_path(body, field, path):
    """Set a field by its dotted path; return False if this release hasn't got it."""
    *parents, name = field.split(".")
    for parent in parents:
        if not has_field(body, parent):
            return False
        body = getattr(body, parent)
        body = body.add() if hasattr(body, "add") else body
    if not has_field(body, name):
        return False
    setattr(body, name, path)
    return True


def check_paths_outside_are_refused():
    bad = ["/etc/passwd", "../up", "a/../../up", "..", "nul\0", STAGING[1:] + "../../up"]
    for kind, fields in FIELDS.items():
        if kind not in oneof_kinds():
            continue
        for field, type_ in fields:
            request, body = make(kind)
            if not set_path(body, field, STAGING + "file"):
                continue
            if type_ in (PathType.FILE, PathType.FOLDER):
                found = paths_in(changed_by_check(request))
                assert found == [("/here/file", type_)], (kind, field)
            else:
                assert verdict_of(request).action is Action.REFUSE, (kind, field)
            for path in bad:
                request, body = make(kind)
                set_path(body, field, path)
                assert verdict_of(request).action is Action.REFUSE, (kind, field, path)
            request, body = make(kind)
            set_path(body, field, "media/a..b/*.png")
            is_name = type_ in (PathType.RUN_FILE, PathType.JOB_FILE)
            assert verdict_of(request).action is (Action.FORWARD if is_name else Action.REFUSE)


PATHLIKE = re.compile("path|_dir|file|folder|root|local|cwd|program")
# Fields of messages that are let through, named like paths, that no service opens: keys of
# configurations, names inside artifacts, what is put into a file as a text.
TEXTS = {
    "ArtifactManifestEntry.path",
    "ConfigFilterPath.path",
    "JobInputPath.path",
    "ArtifactInfo.dockerfile",
    "GitSource.dockerfile",
}


def walk(descriptor, above=()):
    """Iterate over the fields in a type of messages, as (path of fields, field)."""
    for field in descriptor.fields:
        if field.message_type is None:
            yield (*above, field)
        elif field.message_type not in [f.containing_type for f in (*above, field)]:
            yield from walk(field.message_type, (*above, field))


def check_every_field_of_a_path_is_known():
    for kind in forwarded_kinds():
        known = {field for field, _ in FIELDS.get(kind, ())}
        for way in walk(make(kind)[1].DESCRIPTOR):
            leaf, name = way[-1], ".".join(field.name for field in way)
            if leaf.type == leaf.TYPE_STRING and PATHLIKE.search(leaf.name):
                text = f"{leaf.containing_type.name}.{leaf.name}"
                assert name in known or text in TEXTS, f"{kind}: {name}"


def check_paths_are_found():
    for kind, fields in FIELDS.items():
        if kind not in oneof_kinds():
            continue
        request, body = make(kind)
        there = [pair for pair in fields if set_path(body, pair[0], "/w/" + pair[0])]
        assert sorted(paths_in(request), key=str) == sorted(
            [("/w/" + field, type_) for field, type_ in there], key=str
        ), kind


def check_files_of_a_run_are_found_by_their_names():
    folder = os.path.join(tempfile.mkdtemp(), "[x]")
    names = ["a.txt", "b[1].txt", "deep/c.txt"]
    os.makedirs(os.path.join(folder, "deep"))
    for name in names:
        open(os.path.join(folder, name), "w").close()
    wanted = {
        "a.txt": ["a.txt"],
        "b[1].txt": ["b[1].txt"],
        "b[[]1].txt": ["b[1].txt"],
        "*.txt": names[:2],
        "**/*.txt": names,
        "deep": [],
        "none": [],
    }
    for name, files in wanted.items():
        assert sent_files.find_run_files(folder, name) == files, name


def check_a_manifest_file_comes_into_its_message():
    request, body = make("record.artifact")
    if not has_field(body.manifest, "manifest_file_path"):
        return
    path = os.path.join(tempfile.mkdtemp(), "manifest.jl.gz")
    entry = {"path": "a/b", "digest": "d", "size": 3, "local_path": "/w/x", "skip_cache": True}
    more = {"path": "c", "digest": "e", "ref": "s3://x", "birthArtifactID": "id", "extra": {"k": 1}}
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(entry) + "\n" + json.dumps(more) + "\n")
    body.manifest.manifest_file_path = path
    message = sent_files.inline_manifest(request.SerializeToString())
    assert not os.path.exists(path)
    manifest = server_messages().ServerRequest.FromString(message).record_publish.artifact.manifest
    first, second = manifest.contents
    assert not manifest.manifest_file_path
    assert (first.path, first.digest, first.size, first.local_path) == ("a/b", "d", 3, "/w/x")
    assert first.skip_cache and not second.skip_cache
    assert (second.ref, second.birth_artifact_id) == ("s3://x", "id")
    assert [(one.key, one.value_json) for one in second.extra] == [("k", "1")]
    assert sent_files.inline_manifest(message) is message


def check_refusals_find_the_one_who_waits():
    for kind in oneof_kinds():
        if RULES[kind].action is not Action.REFUSE:
            continue
        assert wandb_requests.refusal(make(kind)[0].SerializeToString(), "no") is None or (
            kind == "authenticate"
        )
        request, _ = make(kind, waited=True)
        if not is_waited_for(request):
            continue
        answer = wandb_requests.refusal(request.SerializeToString(), "because")
        has_errors = "error_response" in server_messages().ServerResponse.DESCRIPTOR.fields_by_name
        if answer is None:
            assert not has_errors
            continue
        assert b"because" in answer
        response = server_messages().ServerResponse.FromString(answer)
        if has_request_id():
            assert response.request_id == request.request_id, kind
        if response.WhichOneof("server_response_type") == "result_communicate":
            assert response.result_communicate.control.mailbox_slot == "slot", kind
            assert response.result_communicate.uuid == "uuid", kind
    request, _ = make("request.log_artifact", waited=True)
    answer = wandb_requests.refusal(request.SerializeToString(), "because")
    response = server_messages().ServerResponse.FromString(answer)
    result = response.result_communicate
    assert result.response.log_artifact_response.error_message == "because"
    assert result.control.mailbox_slot == "slot"


def run_all(checks):
    """Run checks; return 1 if one fails, else 0."""
    failed = 0
    for name, check in checks.items():
        try:
            check()
        except Exception:
            failed += 1
            print(name, traceback.format_exc())
    print(f"{len(checks)} checks, {failed} failed")
    return int(bool(failed))


CHECKS = {name: value for name, value in globals().items() if name.startswith("check_")}

if __name__ == "__main__":
    sys.exit(run_all(CHECKS))
