"""Records in a tunnel's stream, however it is cut."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wandb_ddp_patch.transports.remote import records
from wandb_ddp_patch.tunnel.tls import ProtocolError

KINDS = st.integers(records.MESSAGE, records.CLOSED)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=200))), st.lists(st.integers(1, 300)))
def test_records_are_the_same_however_they_are_cut(sent, sizes):
    data = b"".join(records.encode(kind, body) for kind, body in sent)
    decoder, came = records.decoder(), []
    for size in [*sizes, len(data) + 1]:
        came += decoder.feed(data[:size])
        data = data[size:]
    assert came == sent


def test_a_long_record_is_not_looked_at_for_each_piece():
    decoder, body = records.decoder(), os.urandom(3 << 20)
    data = records.encode(records.DATA, body)
    came = [each for at in range(0, len(data), 4096) for each in decoder.feed(data[at : at + 4096])]
    assert came == [(records.DATA, body)]


@pytest.mark.parametrize("data", [b"\0" * 5, b"\xff" * 5, b"\x01\xff\xff\xff\xff"])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(ProtocolError):
        list(records.decoder().feed(data))
