import copy
import pickle

import pytest
from wandb.sdk import Summary
from wandb.sdk.lib.disabled import SummaryDisabled


def _get_summary_data():
    return {"loss": 1, "best": {"loss": 0.5}}


@pytest.mark.parametrize("name", ("missing", "__missing__"))
def test_hasattr_missing(name):
    assert not hasattr(Summary(_get_summary_data), name)
    assert not hasattr(SummaryDisabled(_get_summary_data()), name)


def test_missing_attribute_is_key_error():
    with pytest.raises(KeyError):
        _ = Summary(_get_summary_data).missing
    with pytest.raises(KeyError):
        _ = SummaryDisabled(_get_summary_data()).missing


@pytest.mark.parametrize("copy_fn", (copy.copy, copy.deepcopy))
def test_copy_is_snapshot(copy_fn):
    data = _get_summary_data()
    summary = Summary(lambda: data)

    copied = copy_fn(summary)
    copied["new"] = 2
    copied["best"]["loss"] = 0.1
    del copied["loss"]

    assert dict(copied["best"]) == {"loss": 0.1}
    assert copied.keys() == ["best", "new"]
    assert data == _get_summary_data()


def test_copy_nested():
    data = _get_summary_data()
    summary = Summary(lambda: data)

    copied = copy.deepcopy(summary["best"])
    copied["loss"] = 0.1

    assert copied["loss"] == 0.1
    assert data == _get_summary_data()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    summary = Summary(_get_summary_data)

    pickled = pickle.dumps((summary, summary["best"]), protocol)
    unpickled, best = pickle.loads(pickled)

    assert unpickled["loss"] == 1
    assert best["loss"] == 0.5


def test_disabled_deepcopy():
    summary = SummaryDisabled(_get_summary_data())

    assert copy.deepcopy(summary) == summary
