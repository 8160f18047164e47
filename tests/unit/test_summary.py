"""Summaries that belong to no run: their copies, their names, and blank ones."""

import copy
import pickle

import pytest
import wandb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wandb_ddp_patch  # noqa: F401

SETTINGS = settings(
    deadline=None,
    max_examples=50,
    # The second is one of speed.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def summary_of(content):
    from wandb.sdk.wandb_summary import Summary

    return Summary(lambda: content)


@SETTINGS
@given(st.dictionaries(st.text(), values))
def test_copies_of_a_summary_are_equal_and_independent(content):
    before = copy.deepcopy(content)
    summary = summary_of(content)
    for twin in (copy.deepcopy(summary), pickle.loads(pickle.dumps(copy.deepcopy(summary)))):
        assert twin._as_dict() == before
        assert twin.keys() == summary.keys()
        twin["new"] = {"a": 1}
        twin["new"]["b"] = 2
        assert twin["new"]._as_dict() == {"a": 1, "b": 2}
        del twin["new"]["a"]
        assert twin["new"]._as_dict() == {"b": 2}
        del twin["new"]
        assert twin._as_dict() == {k: v for k, v in before.items() if k != "new"}
        for key, val in before.items():
            if isinstance(val, dict):
                twin[key]["new"] = 1
        assert content == before
    for twin in (copy.copy(summary), copy.copy(copy.copy(summary))):
        twin["new"] = 1
        for key, val in before.items():
            if isinstance(val, dict) and key != "new":
                twin[key]["new"] = 1
        assert content == before


@SETTINGS
@given(st.text(), st.dictionaries(st.text(), values))
def test_names_of_a_summary(name, content):
    for summary in (summary_of(content), wandb.sdk.lib.disabled.SummaryDisabled(content)):
        if name in dir(summary) or name in type(summary).__dict__:
            continue
        dunder = name[:2] == "__" == name[-2:]
        assert hasattr(summary, name) == (name in content and not dunder)
        if name not in content:
            with pytest.raises(AttributeError):
                getattr(summary, name)
            if not dunder:
                with pytest.raises(KeyError):
                    getattr(summary, name)


def test_a_blank_summary_has_no_attributes():
    from wandb.sdk.wandb_summary import Summary, SummarySubDict

    for kind in (Summary, SummarySubDict):
        blank = kind.__new__(kind)
        assert not hasattr(blank, "x") or kind is SummarySubDict
        assert not hasattr(blank, "__deepcopy_me__")
        assert not hasattr(blank, "_items")
