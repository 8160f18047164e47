"""By which address a shared run is handed out, and where its owner listens for that.

On a machine that is a namespace of this one: two addresses of its own, and names for them.
"""

import json
import textwrap

import pytest
from machines import hosts_file, permitted

V4, V6, LOOPBACK = "10.77.0.1", "fd77::1", "127.0.1.1"
HOSTS = [f"{V4} both", f"{V6} both", f"{LOOPBACK} debian", f"{V4} mixed", f"{LOOPBACK} mixed"]
HOSTS += ["10.99.0.9 other"]
WAY_OUT = "ip route add default dev lo src 10.77.0.1; ip -6 route add default dev lo src fd77::1"

# What the code is given: the address that is handed out, and those at which it is reached.
SCRIPT = """
import json, os, socket, sys
import wandb
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports.remote import shared_runs

def run():
    owned = state.OwnerState(os.urandom(16).hex())
    runs.append(Run())
    state.bind(runs[-1], owned)
    return owned

class Run:
    id, entity, project, dir = "x", None, "p", "."

runs = []

def share(host=None, port=0, owned=None, anew=False, **env):
    os.environ.update(env)
    if anew:  # as if this process listened nowhere yet
        shared_runs._heard.clear()
    try:
        opened = shared_runs.listen_tcp(owned or run(), host, port)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for name in env:
            del os.environ[name]
    reached = []
    for address in ("10.77.0.1", "fd77::1", "127.0.0.1", "127.0.1.1", "::1"):
        try:
            socket.create_connection((address, opened["port"]), 5).close()
            reached.append(address)
        except ConnectionRefusedError:
            pass
    return [opened["host"], reached, opened["port"]]

print(json.dumps(CODE))
"""


@pytest.fixture
def on_a_machine(run_prepared, tmp_path):
    why = permitted()
    if why:
        pytest.skip(why)

    def run(code, way_out=True):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.replace("CODE", textwrap.dedent(code).strip()))
        setting = [
            f"mount --bind {hosts_file(tmp_path, HOSTS)} /etc/hosts; ip link set lo up",
            "mount --bind /dev/null /etc/resolv.conf",  # nobody is to be asked
            f"ip address add {V4}/24 dev lo; ip address add {V6}/64 dev lo nodad",
            WAY_OUT if way_out else "true",
        ]
        done = run_prepared(script, machine=[None, "\n".join(setting)])
        return json.loads(done.stdout)

    return run


def test_what_people_write_as_host(on_a_machine):
    hosts = ["0.0.0.0", "::", "[fd77::1]", V6, "both", "debian", "mixed", LOOPBACK, "localhost"]
    found = on_a_machine(f"[share(host, anew=True)[:2] for host in {hosts!r}]")
    told, reached = zip(*found)
    assert told == (V4, told[1], V6, V6, "both", V4, "mixed", LOOPBACK, "localhost")
    assert told[1] in (V4, V6)
    assert reached[0] == [V4, "127.0.0.1", LOOPBACK]
    assert reached[1] == [V4, V6, "127.0.0.1", LOOPBACK, "::1"]
    assert reached[2] == reached[3] == [V6]
    assert reached[4] == [V4, V6]
    assert reached[5] == [V4]
    assert reached[6] == [V4, LOOPBACK]
    assert reached[7] == [LOOPBACK]
    assert reached[8][0] == "127.0.0.1"


def test_what_is_guessed_is_no_loopback_address(on_a_machine):
    found = on_a_machine(
        """
        [
            share(),
            share(MASTER_ADDR="debian"),
            share(SLURMD_NODENAME="debian"),
            share(MASTER_ADDR="localhost"),
            share(MASTER_ADDR="127.0.0.1", SLURMD_NODENAME="fd77::1"),
            share(MASTER_ADDR="nowhere.invalid"),
        ]
        """
    )
    assert [each[0] for each in found] == [V4, V4, V4, V4, V6, V4]
    assert len({each[2] for each in found if each[0] == V4}) == 1  # one port for all


def test_without_a_way_out(on_a_machine):
    found = on_a_machine(
        """
        [
            share("other"),
            share("10.99.0.9"),
            share(),
            share(MASTER_ADDR="localhost"),
            share("debian")[:2],
            share(MASTER_ADDR="debian")[:2],
            share(MASTER_ADDR="10.77.0.1", anew=True)[:2],
            share("127.0.0.1", anew=True)[:2],
        ]
        """,
        way_out=False,
    )
    for host, said in zip(("other", "10.99.0.9"), found):
        assert said.endswith(
            f"{host} is not an address of this machine, and this machine has none that others can"
            " reach"
        )
    assert "no address was found" in found[2] and found[2] == found[3]
    everywhere = [V4, V6, "127.0.0.1", LOOPBACK, "::1"]
    assert found[4] == found[5] == ["debian", everywhere]
    assert found[6:] == [[V4, [V4]], ["127.0.0.1", ["127.0.0.1"]]]


def test_what_is_no_host_is_refused_at_once(on_a_machine):
    found = on_a_machine(
        """
        [
            share("nowhere.invalid"),
            share("a..b"),
            share("[fd77::1"),
            share("10.77.0.1:http"),
            share("10.77.0.1:4000", 4001),
            share("10.77.0.1", 70000),
            share("10.77.0.1:70000"),
        ]
        """
    )
    assert found[0].startswith("OSError: [Errno 99] nowhere.invalid: ")
    assert found[1].startswith("OSError: [Errno 99] a..b: ")
    assert found[2] == "ValueError: [fd77::1 is not HOST or HOST:PORT"
    assert found[3] == "ValueError: 10.77.0.1:http is not HOST or HOST:PORT"
    assert found[4] == "ValueError: host and port give different ports: 4000 and 4001"
    assert found[5] == found[6] == "ValueError: 70000 is not a port number"


def test_a_host_that_is_no_address_of_this_machine_is_handed_out_as_it_is(on_a_machine):
    assert on_a_machine('share("other")[:2]') == ["other", [V4]]


def test_what_is_asked_for_later_is_what_one_gets(on_a_machine):
    found = on_a_machine(
        """
        (lambda one: [
            share(owned=one)[:2],
            share(owned=one, MASTER_ADDR="fd77::1")[:2],
            share(MASTER_ADDR="fd77::1")[:2],
            share("10.77.0.1", 4000, one),
            share("10.77.0.1", 4001, one),
            share(owned=one, MASTER_ADDR="fd77::1"),
            share(port=4002, owned=one),
            share("both", 4002, one),
            share("0.0.0.0", 4003),
            share("10.77.0.1", 4003),
        ])(run())
        """
    )
    assert found[:3] == [[V4, [V4]], [V6, [V6]], [V6, [V6]]]
    assert found[3:5] == [[V4, [V4], 4000], [V4, [V4], 4001]]
    assert found[5] == found[4]  # one that was given is kept
    assert found[6:8] == [[V4, [V4], 4002], ["both", [V4, V6], 4002]]
    assert found[9] == [V4, found[8][1], 4003]


# --- the variable ---------------------------------------------------------------


def test_what_other_machines_need_is_imported_for_shared_runs_only(fresh):
    fresh(
        """
        import pickle, sys, wandb, wandb_ddp_patch
        run = wandb.init()
        payload = pickle.dumps(run)
        assert not [name for name in sys.modules if "transports.remote" in name]
        assert b"token" not in payload and b"wandb_version" not in payload
        run.finish()
        """
    )
