"""What W&B's service answers, without what is the owner's own.

The service sends a run's settings to whoever attaches, with the API key in them.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Set, Tuple

from .wandb_protocol import is_known, parse_response, server_messages

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


def is_credential(name: str) -> bool:
    """Return True if a field, or a setting, of that name may hold a credential."""
    return bool(_CREDENTIAL.search(name)) and not _PATH.search(name)


class _Fields(NamedTuple):
    """Names of the fields of a type of messages in which a credential may be."""

    own: Set[str]
    settings: Set[str]  # settings by their names, as a list or as a map
    below: Set[str]  # in a message in that field


@functools.lru_cache(maxsize=None)
def _credential_fields() -> Dict[str, _Fields]:
    """Return the types of messages in a response that may hold a credential, and where."""
    types: Dict[str, Any] = {}
    _collect_types(server_messages().ServerResponse.DESCRIPTOR, types)
    found = {name: _own_fields(type_) for name, type_ in types.items()}
    found = {name: fields for name, fields in found.items() if fields.own or fields.settings}
    count = -1
    while count != len(found):  # a type may be below itself
        count = len(found)
        for name, type_ in types.items():
            below = {field.name for field in type_.fields if _type_name(field) in found}
            if below:
                found.setdefault(name, _Fields(set(), set(), set())).below.update(below)
    return found


def _collect_types(type_: Any, types: Dict[str, Any]) -> None:
    if type_.full_name not in types:
        types[type_.full_name] = type_
        for field in type_.fields:
            if field.message_type is not None:
                _collect_types(field.message_type, types)


def _type_name(field: Any) -> str:
    return field.message_type.full_name if field.message_type is not None else ""


def _own_fields(type_: Any) -> _Fields:
    own, settings = set(), set()
    for field in type_.fields:
        holds_text = field.type in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE)
        is_list = _type_name(field).endswith(".SettingsItem")
        if holds_text and is_credential(field.name):
            own.add(field.name)
        elif is_list or (_is_map(field) and "settings" in field.name):
            settings.add(field.name)
    return _Fields(own, settings, set())


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def clean_response(message: bytes) -> bytes:
    """Return a response of the service without the owner's credentials.

    Raises:
        ProtocolError: The message can't be read.
    """
    response = parse_response(message)
    types = _credential_fields()
    kind = response.WhichOneof("server_response_type")
    if kind not in types[response.DESCRIPTOR.full_name].below:
        return message
    # A field without a known name can't be judged by it.
    changed = not is_known(response, len(message))
    changed = _clean(response, types) or changed
    return bytes(response.SerializeToString()) if changed else message


def _clean(message: Any, types: Dict[str, _Fields]) -> bool:
    """Take credentials out of a message; return True if it had some."""
    fields = types[message.DESCRIPTOR.full_name]
    changed = False
    for field, value in message.ListFields():
        if field.name in fields.own:
            message.ClearField(field.name)
            changed = True
        elif field.name in fields.settings:
            changed = _clean_settings(value, _is_map(field)) or changed
        elif field.name in fields.below:
            for one in _messages_in(field, value):
                changed = _clean(one, types) or changed
    return changed


def _messages_in(field: Any, value: Any) -> List[Any]:
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


def _path_settings(attached: Any) -> Iterator[Tuple[str, Any]]:
    """Iterate over the settings that are set to a path of the run's, with their names."""
    old = getattr(attached, "_settings_map", None)  # up to 0.14
    if old is not None:
        pairs = [(name, old[name]) for name in old]
    else:
        pairs = [(field.name, value) for field, value in attached.settings.ListFields()]
    for name, value in pairs:
        if _LOCAL_PATH.search(name) and _text_of(value):
            yield name, value


def _is_old(value: Any) -> bool:
    return hasattr(value, "string_value")


def _text_of(value: Any) -> str:
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
