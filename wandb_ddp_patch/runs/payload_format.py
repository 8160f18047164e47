"""What a pickled run consists of: written and read by handover/payload.py, used everywhere."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, TypedDict, Union

# As multiprocessing.connection takes them: a socket's or pipe's name, or host and port.
Address = Union[str, Tuple[str, int]]

# Increment it when a key changes its meaning, or one that readers need is added. Who reads
# another number than this gets a run that says so when it is used. A key that readers can do
# without needs no new number: declare it in a base class of Payload with total=False, and read it
# by get().
FORMAT = 1


class Metadata(TypedDict):
    """What a run tells of itself without its service: see metadata.py."""

    id: Optional[str]
    name: Optional[str]
    project: Optional[str]
    entity: Optional[str]
    group: Optional[str]
    url: Optional[str]
    offline: Optional[bool]
    disabled: Optional[bool]


class Share(TypedDict):
    """What workers on other machines need, for a run that is shared with them."""

    # Where the owner listens for them.
    host: str
    port: int
    # Whoever holds it may use the run; both ends prove it to each other, and never send it.
    token: bytes
    # The owner's machine, see _process.host_fingerprint: from there, nobody needs the tunnel.
    host_fingerprint: str
    # wandb's own protocol is not the same in all releases.
    wandb_version: str


class Payload(TypedDict):
    """A run, as it travels. No settings, no API key, nothing that outlives the run's service."""

    format: int
    # Which run it is, wherever it is loaded: 32 hexadecimal digits, not wandb's id, which a
    # resumed run shares with the one before.
    key: str
    # The process that called wandb.init(). Its number may be another process's by now, or in
    # another container: the fingerprint, see _process.py, tells; None where there is none.
    owner_pid: Optional[int]
    owner_fingerprint: Optional[str]
    # By what wandb attaches a run, and W&B's service as WANDB_SERVICE names it; None up to 0.12.
    attach_id: Optional[str]
    service: Optional[str]
    # True where this process was not passed the run, but attached to it by its id: then the
    # key is this process's own, and the owner knows the run by another one.
    attached_by_id: bool
    # The file by which the owner says which of its runs are finished, see liveness.py; None
    # where it could not be written.
    owner_file: Optional[str]
    # Up to 0.12: where the owner makes workers' calls.
    local_address: Optional[Address]
    # None where the run is not shared with other machines.
    share: Optional[Share]
    # The folder below which the service looks for media and the like.
    root_dir: Optional[str]
    # Whether it was finished when it was pickled.
    finished: bool
    metadata: Metadata
    # wandb's Config, which is pickled without what wandb itself notes there about the run...
    config: Any
    # ... so that is here: a worker's media add to it, and wandb sends it with the config.
    config_internals: Optional[Dict[str, Any]]
    # Of disabled runs alone: the summary's plain values. Others ask their service.
    summary: Optional[Dict[str, Any]]
