"""Property tests of Config: any items, any protocol, any name."""

import copy
import pickle
import pickletools
import threading
import time
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from wandb.sdk.wandb_config import Config

import wandb_ddp_patch  # noqa: F401

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
SETTINGS = settings(
    deadline=None,
    # The second is one of speed.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
# wandb's own key is no user's: hypothesis draws it because it stands in the code.
items = st.dictionaries(st.text().filter(lambda key: key != "_wandb"), values)
dunders = st.text(min_size=1).map(lambda name: f"__{name}__")


def config_of(content, locks=()):
    config = Config()
    vars(config)["_items"].update(content)
    for user, key in locks:
        config.update_locked({key: content.get(key)}, user=user, _allow_val_change=True)
    return config


def state(config):
    parts = ("_items", "_locked", "_users", "_users_inv", "_users_cnt")
    return type(config), list(vars(config)["_items"]), {part: vars(config)[part] for part in parts}


@SETTINGS
@given(items, st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=3))
def test_round_trip_is_exact_in_every_protocol(no_defaults, content, locks):
    locks = [(user, key.strip("-")) for user, key in locks]
    assume(all(key for _, key in locks))
    config = config_of(content, locks)
    for protocol in PROTOCOLS:
        twin = pickle.loads(pickle.dumps(config, protocol))
        assert state(twin) == state(config)
        assert vars(twin)["_callback"] is None
        assert vars(twin)["_settings"] is None


@SETTINGS
@given(items)
def test_copies_are_equal_and_independent(no_defaults, content):
    config = config_of(content)
    called = []
    config._set_callback(lambda **kwargs: called.append(kwargs))
    before = copy.deepcopy(state(config))
    for twin in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert state(twin) == before
        twin.update({"brand new key": 1}, allow_val_change=True)
        twin["another"] = 2
        twin.update_locked({"locked" + "?" * len(str(content)): 3}, user="somebody")
        assert state(config) == before
    assert called == []


@SETTINGS
@given(dunders, items)
def test_dunder_names_are_never_attributes(no_defaults, name, content):
    config = config_of({**content, name: 1})
    assume(not hasattr(type(config), name))
    for thing in (config, Config.__new__(Config)):
        assert not hasattr(thing, name)
        with pytest.raises(AttributeError):
            getattr(thing, name)
    assert config[name] == 1
    assert copy.deepcopy(config)[name] == 1


@SETTINGS
@given(st.text(), items)
def test_other_names_are_items(no_defaults, name, content):
    config = config_of(content)
    assume(name not in dir(config) and not (name[:2] == "__" == name[-2:]))
    assert hasattr(config, name) == (name in content)
    if name in content:
        assert getattr(config, name) == content[name]
    else:
        with pytest.raises(AttributeError):
            getattr(config, name)
    assert not hasattr(Config.__new__(Config), name)


@SETTINGS
@given(st.text(min_size=8).filter(lambda text: text.strip()), items)
def test_no_secret_of_the_settings_is_in_a_payload(no_defaults, secret, content):
    secret = f"planted<{secret.encode('unicode_escape').decode()}>"
    config = config_of(content)
    hidden = SimpleNamespace(api_key=secret, _jupyter=False)
    config._set_settings(hidden)
    config._set_callback(hidden)
    config._set_artifact_callback(hidden)
    for protocol in PROTOCOLS:
        assert b"planted<" not in pickle.dumps(config, protocol)


@SETTINGS
@given(items)
def test_payload_names_wandbs_class_and_builtins_alone(no_defaults, content):
    config = config_of(content)
    for protocol in PROTOCOLS:
        strings, named = [], set()
        for opcode, argument, _ in pickletools.genops(pickle.dumps(config, protocol)):
            if opcode.name == "STACK_GLOBAL":
                named.add(tuple(strings[-2:]))
            elif opcode.name == "GLOBAL":
                named.add(tuple(argument.split(" ")))
            elif "UNICODE" in opcode.name or "STRING" in opcode.name:
                strings.append(argument)
        named = {name for name in named if name[0] not in ("builtins", "__builtin__")}
        assert named == {("wandb.sdk.wandb_config", "Config")}, protocol


def test_shared_and_circular_values_stay_so(no_defaults):
    shared = {"a": [1]}
    circular = [shared]
    circular.append(circular)
    config = config_of({"one": shared, "two": shared, "loop": circular})
    twin = pickle.loads(pickle.dumps(config))
    assert twin["one"] is twin["two"] is twin["loop"][0]
    assert twin["loop"][1] is twin["loop"]
    assert twin["one"] == shared


def containers(value, found):
    """The dicts and lists in a value, each once, by id."""
    if type(value) in (dict, list) and id(value) not in found:
        found[id(value)] = value
        for part in value.values() if type(value) is dict else value:
            containers(part, found)
    return found


def snapshots(config):
    yield config.__reduce_ex__(4)[2]["_items"]
    yield config.__getstate__()["_items"]


@SETTINGS
@given(items, st.lists(st.sampled_from([{}, [], {"a": 1}, [1], [{}], {"a": []}]), max_size=3))
def test_a_snapshot_is_equal_and_shares_no_dict_or_list(no_defaults, content, others):
    """Whatever Python says of a dict that holds none, empty ones included."""
    content.update(enumerate(others))
    content["loop"] = [content, others, others]
    config = config_of(content)
    config_items = vars(config)["_items"]
    content["loop"][0] = config_items  # the config's own holds itself
    originals = containers(config_items, {})
    for taken in snapshots(config):
        assert list(taken) == list(config_items)
        del config_items["loop"]
        loop = taken.pop("loop")
        assert loop[0] is taken and loop[1] is loop[2] == others
        assert taken == config_items
        assert not containers(loop, {}).keys() & originals.keys()
        config_items["loop"] = content["loop"]


def test_a_dict_that_was_empty_may_be_filled_meanwhile(no_defaults):
    config = config_of({"slow": Filling(), "nested": {}, "list": []})
    vars(config["slow"])["config"] = config
    twin = pickle.loads(pickle.dumps(config))
    assert (twin["nested"], twin["list"]) == ({}, [])
    assert config["nested"] and config["list"]


class Filling:
    """Fills the config's parts while it is pickled, as another thread might."""

    def __reduce__(self):
        self.config["nested"]["a"] = 1
        self.config["list"].append(1)
        return Slow, ()


@pytest.mark.parametrize("locked", [False, True])
def test_locks_travel_where_there_are_any(no_defaults, locked):
    config = config_of({"lr": 1}, [("sweep", "lr")] if locked else ())
    assert ("_locked" in config.__reduce_ex__(4)[2]) == locked
    twin = pickle.loads(pickle.dumps(config))
    twin.update_locked({"lr": 2}, user="another", _allow_val_change=True)
    assert len(vars(twin)["_users"]) == 1 + locked
    assert vars(config)["_locked"] == ({"lr": 0} if locked else {})


def test_nesting_is_as_deep_as_pickle_allows(no_defaults):
    deep = {}
    for _ in range(400):
        deep = {"inner": deep}
    pickle.dumps(deep)
    assert pickle.loads(pickle.dumps(config_of({"deep": deep})))["deep"] == deep


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not me")


@pytest.mark.parametrize("value", [Unpicklable(), threading.Lock(), lambda: None])
def test_what_cannot_be_pickled_gives_pythons_own_error(no_defaults, value):
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as theirs:
        pickle.dumps({"bad": value})
    with pytest.raises(type(theirs.value)) as ours:
        pickle.dumps(config_of({"bad": value}))
    assert str(ours.value) == str(theirs.value)


class Slow:
    """Lets other threads run while it is pickled, as any class in Python may."""

    def __reduce__(self):
        time.sleep(0.001)
        return Slow, ()


def pickle_while_others_update(config, what):
    """Pickle 100 times while two threads update the config.

    The pair is written together, so every payload must hold a pair.
    """
    end, errors = threading.Event(), []

    def write(n):
        while not end.is_set():
            n += 2
            # Keys come, and go all at once, so that the dicts change size.
            config.update({"a": n, "b": n, f"new {n}": n}, allow_val_change=True)
            config["nested"][n] = n
            if n % 40 < 2:
                config["nested"].clear()
                for key in [key for key in list(vars(config)["_items"]) if key[:3] == "new"]:
                    vars(config)["_items"].pop(key, None)
            config.update_locked(
                {f"locked {n % 40}": n}, user=f"user {n % 40}", _allow_val_change=True
            )

    def read():
        try:
            for _ in range(50):
                twin = pickle.loads(pickle.dumps(what))
                assert twin["a"] == twin["b"]
                if what is config:
                    locked, users = vars(twin)["_locked"], vars(twin)["_users_inv"]
                    assert set(locked.values()) <= set(users)
                    copy.deepcopy(config)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(2)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in writers + readers:
        thread.start()
    for thread in readers:
        thread.join()
    end.set()
    for thread in writers:
        thread.join()
    return errors


def racing_config():
    return config_of({"a": 0, "b": 0, "nested": {0: Slow()}, "slow": Slow()})


def test_pickling_while_other_threads_update(no_defaults):
    config = racing_config()
    assert pickle_while_others_update(config, config) == []


def test_that_race_is_real(no_defaults):
    """The test above can fail: the live dict by itself does."""
    config = racing_config()
    errors = pickle_while_others_update(config, vars(config)["_items"])
    assert "dictionary changed size during iteration" in str(errors)


def test_a_config_of_a_subclass_keeps_its_own_attributes(no_defaults):
    config = MyConfig()
    config.__dict__["_note"] = "mine"
    config["lr"] = 1
    twin = pickle.loads(pickle.dumps(config))
    assert type(twin) is MyConfig
    assert (vars(twin)["_note"], twin.lr) == ("mine", 1)


class MyConfig(Config):
    pass


class Needy(Config):
    def __init__(self, needed):
        super().__init__()
        self.__dict__["needed"] = needed


class Prefixed(Config):
    def __getitem__(self, key):
        return self._items[f"my {key}"]


class Slotted(Needy):
    __slots__ = ("empty", "slot")


class Answering(Config):
    def __getattr__(self, key):
        return 3 if key == "three" else super().__getattr__(key)


class OwnState(Config):
    def __getstate__(self):
        return {"state": dict(self)}

    def __setstate__(self, state):
        self.__init__()
        self.__dict__["loaded"] = state


class Reducing(Config):
    def __init__(self, count=0):
        super().__init__()
        self.__dict__["count"] = count

    def __reduce__(self):
        return Reducing, (self.count + 1,)


class Extending(Config):
    def __reduce_ex__(self, protocol):
        make, args, state, *more = super().__reduce_ex__(protocol)
        return (make, args, {**state, "extra": 1}, *more)


class Numbered(Config):
    def __new__(cls, number):
        config = super().__new__(cls)
        config.__dict__["number"] = number
        return config

    def __init__(self, number):
        super().__init__()

    def __getnewargs__(self):
        return (self.number,)


def twins(config):
    yield copy.copy(config)
    yield copy.deepcopy(config)
    for protocol in PROTOCOLS:
        yield pickle.loads(pickle.dumps(config, protocol))


def slotted():
    config = Slotted("args")
    object.__setattr__(config, "slot", [1])
    return config


MAKERS = [MyConfig, lambda: Needy("args"), slotted, lambda: Numbered(7)]


@SETTINGS
@given(items, st.sampled_from(MAKERS))
def test_a_subclass_travels_whole_without_its_init(no_defaults, content, make):
    config = make()
    vars(config)["_items"].update(content)
    vars(config)["_settings"] = vars(config)["_callback"] = threading.Lock()
    for twin in twins(config):
        assert state(twin) == state(config)
        assert {name: val for name, val in vars(twin).items() if name not in state(config)[2]} == {
            **dict.fromkeys(("_callback", "_settings", "_artifact_callback")),
            **{name: vars(config)[name] for name in ("needed", "number") if name in vars(config)},
        }
        assert getattr(twin, "slot", None) == getattr(config, "slot", None)


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (Prefixed, lambda twin: (twin.lr, twin["lr"], hasattr(twin, "my lr")) == (1, 1, False)),
        (Answering, lambda twin: (twin.three, twin._items) == (3, {"my lr": 1})),
        (OwnState, lambda twin: vars(twin)["loaded"] == {"state": {"my lr": 1}}),
        (Reducing, lambda twin: (twin.count, twin._items) == (1, {})),
        (Extending, lambda twin: (vars(twin)["extra"], twin._items) == (1, {"my lr": 1})),
    ],
)
def test_what_a_subclass_overrides_counts(no_defaults, make, seen):
    config = make()
    config["my lr"] = 1
    for twin in twins(config):
        assert type(twin) is make
        assert seen(twin)


def test_a_subclass_may_hold_itself(no_defaults):
    config = Needy("args")
    vars(config)["me"] = config
    for twin in list(twins(config))[1:]:
        assert vars(twin)["me"] is twin


def test_copies_read_no_defaults(no_defaults):
    config = config_of({"lr": 1})
    (no_defaults / "config-defaults.yaml").write_text("no: [yaml")
    for thing in (config, Needy.__new__(Needy)):
        for twin in (copy.copy(thing), copy.deepcopy(thing)):
            assert vars(twin).get("_items") == vars(thing).get("_items")
    with pytest.raises(Exception, match="Invalid YAML"):
        Config()  # which goes on reading them
    assert pickle.loads(pickle.dumps(Needy.__new__(Needy)))._callback is None


@SETTINGS
@given(items, st.sampled_from(["SafeDumper", "Dumper", "CSafeDumper", "CDumper", "my own"]))
def test_yaml_writes_a_config_as_it_writes_its_public_items(no_defaults, content, dumper):
    dumper = OwnDumper if dumper == "my own" else getattr(yaml, dumper)
    config = config_of({**content, "_wandb": {"telemetry": 1}})
    vars(config)["_settings"] = threading.Lock()
    plain = copy.deepcopy(dict(config))
    assert yaml.dump(config, Dumper=dumper) == yaml.dump(plain, Dumper=dumper)
    assert yaml.dump([{"x": config}], Dumper=dumper) == yaml.dump([{"x": plain}], Dumper=dumper)


class OwnDumper(yaml.SafeDumper):
    """As users make them, with a table of its own."""


OwnDumper.add_multi_representer(bytes, OwnDumper.represent_binary)
OwnDumper.add_representer(
    dict, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items())
)


def test_defaults_of_the_loading_folder_do_not_leak_in(no_defaults):
    data = pickle.dumps(config_of({"lr": 1}))
    (no_defaults / "config-defaults.yaml").write_text("stray:\n  value: 1\n")
    assert dict(Config()) == {"stray": 1}
    assert dict(pickle.loads(data)) == {"lr": 1}
