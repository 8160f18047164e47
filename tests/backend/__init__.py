"""A stand-in for W&B's server, on 127.0.0.1, for runs in online mode.

It answers what wandb 0.10.23 to 0.31.0 ask when they start, feed, resume and finish a
run, and when they run a sweep. It keeps what it got, and can be slow, busy, broken, or
away. Nothing but the standard library is needed, so any environment can run it.

    state.py    what it got: runs and sweeps
    graphql.py  what it answers at /graphql
    faults.py   how it fails, when told to
    server.py   HTTP: the addresses, the key, the files
"""

from .server import KEY, Backend

__all__ = ["KEY", "Backend"]
