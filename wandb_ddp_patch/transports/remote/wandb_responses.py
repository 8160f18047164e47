"""What W&B's service answers, without what is the owner's own.

The service sends a run's settings to whoever attaches, with the API key in them.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Iterator, List, Tuple

from .wandb_protocol import is_known, parse_response

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

_CREDENTIAL = re.compile(
    "api_?key|access_?key|private_?key|token|secret|passw|credential|authori[sz]ation|cookie"
    # The owner's command line may hold a key.
    "|^_?(x_)?args$"
    # Headers may hold an Authorization, and these URLs may hold a password.
    "|http_headers|prox(y|ies)$|open_metrics_endpoints|remote_url$",
    re.IGNORECASE,
)
# The path of a file is no secret.
_PATH = re.compile("(_file|_path|_dir)$")

_LOCAL_PATH = re.compile(
    "(^|_)(root|wandb|sync|files|log|tmp|tmp_code)_dir$"
    "|^(sync_file|resume_fname|log_user|log_internal)$|^(log|sync)_symlink_"
)


@functools.lru_cache(maxsize=1024)
def is_credential(name: str) -> bool:
    """Return True if a field, or a setting, of that name may hold a credential."""
    return bool(_CREDENTIAL.search(name)) and not _PATH.search(name)


def clean_response(message: bytes) -> bytes:
    """Return a response of the service without the owner's credentials.

    Raises:
        ProtocolError: The message can't be read.
    """
    response = parse_response(message)
    kind = response.WhichOneof("server_response_type")
    if kind is not None and not _may_hold_credentials(getattr(response, kind).DESCRIPTOR):
        return message
    # A field without a known name can't be judged by its name: such fields are dropped.
    changed = not is_known(response, len(message))
    changed = _clean(response) or changed
    return bytes(response.SerializeToString()) if changed else message


@functools.lru_cache(maxsize=None)
def _may_hold_credentials(type_: Descriptor) -> bool:
    """Return True if a message of that type, or one below it, has a field for a credential."""
    seen, waiting = {type_.full_name}, [type_]
    while waiting:  # and no recursion: a type may be below itself
        for field in waiting.pop().fields:
            if _is_credential_field(field) or _holds_settings(field):
                return True
            below = field.message_type
            if below is not None and below.full_name not in seen:
                seen.add(below.full_name)
                waiting.append(below)
    return False


def _is_credential_field(field: FieldDescriptor) -> bool:
    holds_text = field.type in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE)
    return holds_text and is_credential(field.name)


def _holds_settings(field: FieldDescriptor) -> bool:
    """Return True if a field holds settings by their names, as a list or as a map."""
    if field.message_type is None:
        return False
    is_list = field.message_type.full_name.endswith(".SettingsItem")
    return is_list or (_is_map(field) and "settings" in field.name)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _clean(message: Message) -> bool:
    """Take credentials out of a message; return True if it had some."""
    changed = False
    for field, value in message.ListFields():
        if _is_credential_field(field):
            message.ClearField(field.name)
            changed = True
        elif _holds_settings(field):
            changed = _clean_settings(value, _is_map(field)) or changed
        elif field.message_type is not None and _may_hold_credentials(field.message_type):
            for each in _messages_in(field, value):
                changed = _clean(each) or changed
    return changed


def _messages_in(field: FieldDescriptor, value: Any) -> List[Message]:
    if _is_map(field):
        return list(value.values())
    return list(value) if hasattr(value, "add") else [value]


def _clean_settings(settings: Any, is_map: bool) -> bool:
    names = list(settings) if is_map else [item.key for item in settings]
    places = [name if is_map else index for index, name in enumerate(names) if is_credential(name)]
    for place in reversed(places):
        del settings[place]
    return bool(places)


def localize_settings(message: bytes, folder: str) -> bytes:
    """Return a response with paths of this machine, for the worker's end.

    The answer to an attach names the folders of the run on the owner's machine. They become
    folders below that one, laid out as they are there.

    Args:
        message: A response of any kind.
        folder: What takes the place of the folder in which wandb keeps its runs.

    Raises:
        ProtocolError: The message can't be read.
    """
    response = parse_response(message)
    if response.WhichOneof("server_response_type") != "inform_attach_response":
        return message
    values = dict(_path_settings(response.inform_attach_response))
    roots = [_text_of(values[name]) for name in ("wandb_dir", "root_dir") if name in values]
    for value in values.values():
        local = "/".join([folder.rstrip("/"), *_below(_text_of(value), roots)])
        setattr(value, "string_value" if _is_old(value) else "value", local)
    return bytes(response.SerializeToString()) if values else message


def _path_settings(attached: Message) -> Iterator[Tuple[str, Message]]:
    """Iterate over the settings that are set to a path of the run's, with their names."""
    old = getattr(attached, "_settings_map", None)  # up to 0.14
    if old is not None:
        pairs = [(name, old[name]) for name in old]
    else:
        pairs = [(field.name, value) for field, value in attached.settings.ListFields()]
    for name, value in pairs:
        if _LOCAL_PATH.search(name) and _text_of(value):
            yield name, value


def _is_old(value: Message) -> bool:
    return hasattr(value, "string_value")


def _text_of(value: Message) -> str:
    return str(value.string_value if _is_old(value) else value.value)


def _below(path: str, roots: List[str]) -> List[str]:
    """Return the names that lead from the first root that has a path to it, or its last name."""
    for root in roots:
        if root and path.startswith(root):
            path = path[len(root) :]
            break
    else:
        path = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return [name for name in re.split(r"[\\/]", path) if name not in ("", ".", "..")]
