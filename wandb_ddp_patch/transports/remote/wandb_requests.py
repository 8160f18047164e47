"""What the owner of a run does with a request of a worker to W&B's service.

The service trusts whoever speaks to it, so what a worker on another machine sends is checked:
its kind, the run that it is about, and the paths in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from ...tunnel.tls import ProtocolError
from .wandb_paths import PathField, PathType, is_inside, path_fields
from .wandb_protocol import (
    has_field,
    is_known,
    is_waited_for,
    kind_and_body,
    parse_request,
    record_of,
    server_messages,
)
from .wandb_rules import ERROR_FIELDS, RULES, UNKNOWN, Action

if TYPE_CHECKING:
    from google.protobuf.message import Message

AllowedPath = Callable[[str], Optional[str]]


class Verdict(NamedTuple):
    """What is to be done with a request.

    Attributes:
        action: Forward it, refuse it, or close this worker's connection.
        changed: What is to be forwarded in its place, if not None.
        reason: Why it is not forwarded, for a person.
        is_waited_for: Whether the worker waits for an answer.
    """

    action: Action
    changed: Optional[bytes] = None
    reason: str = ""
    is_waited_for: bool = False


# What a worker's message about the run itself may set. By others the service would take the
# run for another one (storage_id), or move it (sweep_id), or have it run elsewhere (host).
_RUN_FIELDS = {
    "run_id",
    "entity",
    "project",
    "config",
    "run_group",
    "job_type",
    "display_name",
    "notes",
    "tags",
    "start_time",
    "telemetry",
    "_info",
}

FORWARD = Verdict(Action.FORWARD)
_FORWARD_QUESTION = Verdict(Action.FORWARD, is_waited_for=True)


class _RefusedError(Exception):
    """A request may not go on; the message says why."""


class RequestCheck:
    """Checks the requests of workers of one run.

    Args:
        run_id: The run's id, by which the service knows it.
        allowed_path: Returns what replaces a path that a message names, which may be the same
            path; or None if the service must not use it. It is not asked for the names of
            files below the run's folder.
        entity: Whose run it is, as its owner knows it.
        project: The run's project, as its owner knows it.
    """

    def __init__(
        self, run_id: str, allowed_path: AllowedPath, entity: str = "", project: str = ""
    ) -> None:
        self._run_id = run_id
        self._allowed_path = allowed_path
        self._entity, self._project = entity, project
        self._parse = server_messages().ServerRequest.FromString
        self._numbers_questions = has_field(server_messages().ServerRequest, "request_id")
        self._unknown_fields = _unknown_fields()

    def check(self, message: bytes) -> Verdict:
        """Return what is to be done with a request of a worker."""
        try:
            request = self._parse(message)
        except Exception as error:
            # wandb-core ends itself, with all runs, when it gets what it can't read.
            return Verdict(
                Action.CLOSE, reason=f"its owner can't read a message from this worker: {error}"
            )
        if self._is_row(request):
            return FORWARD
        return self._check_any(request, len(message))

    def _is_row(self, request: Message) -> bool:
        """Return True if this is a row of this run as run.log() sends it: nearly all are."""
        record = request.record_publish
        said = record.request
        if not said.HasField("partial_history"):
            return False
        if record._info.stream_id != self._run_id:
            return False
        if request.request_id if self._numbers_questions else record.control.mailbox_slot:
            return False
        unknown = self._unknown_fields
        # What an item of a row has beyond that can mean nothing to a service of this release.
        return unknown is not None and not (
            unknown(request) or unknown(record) or unknown(said) or unknown(said.partial_history)
        )

    def _check_any(self, request: Message, size: int) -> Verdict:
        waited_for = is_waited_for(request)
        kind, body = kind_and_body(request)
        rule = RULES.get(kind, UNKNOWN)
        if rule.action is Action.CLOSE:
            return Verdict(Action.CLOSE, is_waited_for=waited_for)  # that is no fault
        if rule.action is not Action.FORWARD:
            return Verdict(rule.action, None, _because(kind, rule.why), waited_for)
        if not is_known(request, size):
            return Verdict(Action.REFUSE, None, _because(kind, UNKNOWN.why), waited_for)
        try:
            self._check_run(kind, body, record_of(request))
            changed = self._set_run(kind, body)
            for field in path_fields(kind, body):
                changed = self._check_path(field) or changed
        except _RefusedError as error:
            return Verdict(Action.REFUSE, None, _because(kind, str(error)), waited_for)
        if changed:
            return Verdict(Action.FORWARD, bytes(request.SerializeToString()), "", waited_for)
        return _FORWARD_QUESTION if waited_for else FORWARD

    def _check_run(self, kind: str, body: Message, record: Optional[Message]) -> None:
        """Check that a message is about this run."""
        named = [record._info.stream_id] if record is not None else []
        if has_field(body, "_info") and has_field(body._info, "stream_id"):
            inner = body._info.stream_id
            # The service goes by the record's; the client leaves the inner one empty.
            named += [inner] if inner or record is None else []
        if kind == "request.attach":
            named.append(body.attach_id)
        elif kind in ("record.run", "record.artifact"):
            named.append(body.run_id)
        elif kind == "request.log_artifact":
            named.append(body.artifact.run_id)
        if any(name != self._run_id for name in named):
            raise _RefusedError("it is about another run")
        if kind.endswith(".link_artifact"):
            self._check_link(body)

    def _check_link(self, link: Message) -> None:
        """Check that an artifact of this run is linked, and in the run's own project.

        The service links with the owner's API key: in any project or registry that this opens.
        """
        place = (link.portfolio_entity or self._entity, link.portfolio_project or self._project)
        organization = getattr(link, "portfolio_organization", "")  # of later releases
        if organization or place != (self._entity, self._project) or link.server_id:
            raise _RefusedError(
                "a worker on another machine can only link what it has logged, in the run's own"
                " project"
            )

    def _set_run(self, kind: str, body: Message) -> bool:
        """Have a message mean the owner's run, as it is; return True if that changes it."""
        if kind not in ("record.run", "record.artifact", "request.log_artifact"):
            return False
        about = body.artifact if kind == "request.log_artifact" else body
        changed = (about.entity, about.project) != (self._entity, self._project)
        about.entity, about.project = self._entity, self._project
        for field, _ in about.ListFields() if kind == "record.run" else []:
            if field.name not in _RUN_FIELDS:
                about.ClearField(field.name)
                changed = True
        return changed

    def _check_path(self, field: PathField) -> bool:
        """Check a path, put what it is here in its place; return True if that changes it."""
        if field.type in (PathType.RUN_FILE, PathType.JOB_FILE):
            if not is_inside(field.path):
                raise _RefusedError(f"{field.path!r} is not below the run's folder")
            return False
        # What the list of an artifact's files names can't be checked here.
        refused = field.type in (PathType.MANIFEST, PathType.UNUSED)
        path = None if refused else self._allowed_path(field.path)
        if path is None:
            raise _RefusedError(f"{field.path!r} does not belong to the run")
        changed = path != field.path
        field.set(path)
        return changed


def _because(kind: str, why: str) -> str:
    return f"wandb's message {kind or 'of an unknown kind'} is refused: {why}"


def _unknown_fields() -> Optional[Callable[[Message], Any]]:
    """Return the function for the unknown fields of a message itself, if this protobuf has it."""
    try:
        from google.protobuf.unknown_fields import UnknownFieldSet
    except ImportError:
        return None
    return UnknownFieldSet  # type: ignore[no-any-return]


def refusal(message: bytes, why: str) -> Optional[bytes]:
    """Return the answer that makes a refused request raise in the worker.

    It is None where nobody waits for an answer, and where this release of wandb has none that
    its client would raise for: then only the end of the connection does so.

    Args:
        message: The request.
        why: The error's message.
    """
    try:
        request = parse_request(message)
    except ProtocolError:
        return None
    if not is_waited_for(request):
        return None
    answer = server_messages().ServerResponse()
    if not _set_error(answer, ERROR_FIELDS.get(kind_and_body(request)[0], ""), why) and (
        not _set_error(answer, "error_response.message", why)
    ):
        return None
    if has_field(answer, "request_id"):
        answer.request_id = request.request_id
    record = record_of(request)
    if record is not None and answer.WhichOneof("server_response_type") == "result_communicate":
        # By these, releases before 0.19 find the call that waits.
        answer.result_communicate.uuid = record.uuid
        answer.result_communicate.control.CopyFrom(record.control)
    return bytes(answer.SerializeToString())


def _set_error(answer: Message, path: str, why: str) -> bool:
    """Set the field at a path in a message; return True if this release has it."""
    *parents, last = path.split(".")
    for name in parents:
        if not has_field(answer, name):
            return False
        answer = getattr(answer, name)  # which sets nothing yet
    if not has_field(answer, last):
        return False
    setattr(answer, last, why)
    return True
