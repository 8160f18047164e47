"""What is done with wandb's messages on their way to and from a worker elsewhere."""

import os

import message_checks
import pytest
import response_checks
from hypothesis import given
from hypothesis import strategies as st

from wandb_ddp_patch.transports.remote import wandb_responses
from wandb_ddp_patch.transports.remote.records import FrameDecoder
from wandb_ddp_patch.transports.remote.wandb_protocol import (
    MessageDecoder,
    ProtocolError,
    frame,
    server_messages,
)

SECRET = response_checks.SECRET
CHECKS = {**message_checks.CHECKS, **response_checks.CHECKS}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="another protocol is spoken there")


@pytest.mark.parametrize("name", CHECKS)
def test_here(name):
    CHECKS[name]()


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 2000)))
def test_messages_are_the_same_however_they_are_cut(messages, cuts):
    data = b"".join(map(frame, messages))
    splitter, found = MessageDecoder(), []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in zip(places, places[1:]):
        found += splitter.feed(data[start:end])
    assert found == messages
    assert all(type(message) is bytes for message in found)


@given(st.lists(st.binary(max_size=30)), st.integers(0, 255).filter(lambda c: c != ord("W")))
def test_what_is_not_wandbs_is_refused_at_its_first_byte(messages, first):
    splitter = MessageDecoder()
    assert splitter.feed(b"".join(map(frame, messages))) == messages
    with pytest.raises(ProtocolError, match="not with b'W'"):
        splitter.feed(bytes([first]))


def test_a_long_message_is_refused_by_its_header():
    assert MessageDecoder(limit=5).feed(frame(b"12345")) == [b"12345"]
    with pytest.raises(ProtocolError, match="6 bytes"):
        MessageDecoder(limit=5).feed(frame(b"123456")[:5])


def test_a_long_message_is_not_copied_for_each_piece(monkeypatch):
    split, calls = FrameDecoder._split, []
    monkeypatch.setattr(FrameDecoder, "_split", lambda *args: calls.append(1) or split(*args))
    data = frame(bytes(1 << 20))
    splitter, count = MessageDecoder(), 0
    for start in range(0, len(data), 2048):
        count += len(splitter.feed(data[start : start + 2048]))
    assert count == 1
    assert len(calls) == 2  # at its header and at its end


def settings_fields():
    attached = server_messages().ServerResponse().inform_attach_response
    return [field.name for field in attached.settings.DESCRIPTOR.fields]


@given(st.sets(st.sampled_from(settings_fields()), min_size=1))
def test_settings_keep_all_but_credentials(names):
    response = server_messages().ServerResponse()
    settings = response.inform_attach_response.settings
    for name in names:
        suspicious = response_checks.SUSPICIOUS.search(name)
        secret = suspicious and name not in response_checks.HARMLESS
        text = SECRET if secret else response_checks.PLAIN
        fill_setting(getattr(settings, name), text)
    clean = wandb_responses.clean_response(response.SerializeToString())
    assert SECRET.encode() not in clean
    left = server_messages().ServerResponse.FromString(clean).inform_attach_response.settings
    for field, value in settings.ListFields():
        kept = SECRET.encode() not in value.SerializeToString()
        assert left.HasField(field.name) == kept
        assert not kept or getattr(left, field.name) == value


def fill_setting(setting, text):
    setting.SetInParent()
    values = getattr(setting, "value", None)
    if isinstance(values, str):
        setting.value = text
    elif hasattr(values, "add"):
        pass  # numbers
    elif hasattr(values, "keys"):
        if "MapStringKeyStringValue" in type(setting).__name__:
            values["name"] = text
    elif hasattr(values, "append") and "String" in type(setting).__name__:
        values.append(text)
