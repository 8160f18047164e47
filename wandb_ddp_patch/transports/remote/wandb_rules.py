"""What a worker of a run may say to W&B's service, for all releases from 0.13 to 0.31.

W&B's service trusts whoever speaks to it. A worker's request is let through if its kind
is one that an attached run sends; what is not named here is refused. Kinds are named as by
``wandb_protocol.kind_and_body``.
"""

from __future__ import annotations

import enum
from typing import Dict, NamedTuple


class Action(enum.Enum):
    """What is to be done with a request."""

    FORWARD = "forward"
    REFUSE = "refuse"
    CLOSE = "close"


class Rule(NamedTuple):
    """What is done with requests of a kind, and why.

    Attributes:
        why: A person in the worker reads it, after what was refused.
    """

    action: Action
    why: str = ""


_OK = Rule(Action.FORWARD)
_END = Rule(Action.REFUSE, "only the process that called wandb.init() ends the run")
_START = Rule(Action.REFUSE, "only the process that called wandb.init() starts the run")
_INTERNAL = Rule(Action.REFUSE, "W&B's service says this to itself")
_UNUSED = Rule(Action.REFUSE, "no worker needs it")
_SYNC = Rule(Action.REFUSE, "a worker may only write the run that it shares")
_API = Rule(Action.REFUSE, "a worker on another machine can't use the service of the run's owner")
_OUTPUT = Rule(Action.REFUSE, "only the process that called wandb.init() has its output logged")
_LEAVE = Rule(Action.CLOSE, "the worker leaves")

_SERVER: Dict[str, Rule] = {
    "inform_attach": _OK,
    "cancel": _OK,  # of a request of the same connection
    "inform_init": _START,
    "inform_start": _START,
    "inform_finish": _END,
    "inform_detach": _LEAVE,  # wandb-core closes the connection, for it does not know it
    "inform_teardown": _LEAVE,  # it would end the service, with all runs in it
    "authenticate": _API,
    "init_sync": _SYNC,
    "sync": _SYNC,
    "sync_status": _SYNC,
    # They come with settings of the worker's, and would read and write the owner's files.
    "api_init_request": _API,
    "api_request": _API,
    "api_cleanup_request": _API,
    "sweep_scheduler_init": _API,
    "sweep_scheduler_next_task": _API,
    "sweep_scheduler_stop": _API,
}

_RECORDS: Dict[str, Rule] = {
    "alert": _OK,
    "artifact": _OK,
    "config": _OK,
    "files": _OK,
    "history": _OK,
    "link_artifact": _OK,
    "metric": _OK,
    "output_logger": _OK,  # run.write_logs()
    "preempting": _OK,
    "run": _OK,  # a run's name, notes and tags that are set later
    "summary": _OK,
    "tbrecord": _OK,
    "telemetry": _OK,
    "use_artifact": _OK,
    "wandb_config_parameters": _OK,  # names of configuration keys, for launch
    "api_request": _API,
    "environment": _START,
    "exit": _END,
    "final": _END,
    "footer": _END,
    "header": _START,
    "noop_link_artifact": _UNUSED,
    "output": _OUTPUT,
    "output_raw": _OUTPUT,
    "stats": _INTERNAL,
}

_REQUESTS: Dict[str, Rule] = {
    "attach": _OK,
    "cancel": _OK,  # of a request of the same client: nobody else knows its slot
    "get_summary": _OK,
    "get_system_metadata": _OK,
    "get_system_metrics": _OK,
    "history_step": _OK,
    "internal_messages": _OK,
    "job_input": _OK,
    "keepalive": _OK,
    "link_artifact": _OK,
    "log_artifact": _OK,
    "network_status": _OK,
    "operations": _OK,
    "partial_history": _OK,
    "run_status": _OK,
    "sampled_history": _OK,
    "server_feature": _OK,
    "server_info": _OK,
    "status": _OK,
    "stop_status": _OK,
    "artifact_done": _UNUSED,
    "artifact_poll": _UNUSED,
    "artifact_send": _UNUSED,
    "check_version": _START,
    "defer": _END,
    # The service would write into a folder of the owner's, whence nothing comes back.
    "download_artifact": _API,
    "file_transfer_info": _INTERNAL,
    "job_info": _UNUSED,
    "login": _API,
    "metadata": _INTERNAL,
    "pause": _START,  # it stops the measuring of the owner's machine
    "poll_exit": _END,
    "probe_system_info": _START,
    "python_packages": _START,  # it writes requirements.txt anew
    "resume": _START,
    "run_finish_without_exit": _END,
    "run_start": _START,
    "sender_mark": _INTERNAL,
    "sender_read": _INTERNAL,
    "shutdown": _END,
    "status_report": _INTERNAL,
    "summary_record": _INTERNAL,
    "sync": _SYNC,
    "sync_finish": _SYNC,
    "telemetry_record": _INTERNAL,
    "test_inject": _INTERNAL,  # it makes the service fail
}

RULES: Dict[str, Rule] = {
    **_SERVER,
    **{f"record.{name}": rule for name, rule in _RECORDS.items()},
    **{f"request.{name}": rule for name, rule in _REQUESTS.items()},
}

UNKNOWN = Rule(Action.REFUSE, "it is not known to this version of wandb_ddp_patch")

# Where the answer to a refused request has room for an error, as the path of its field in
# ServerResponse. Where it hasn't, releases from 0.26 on have an answer that is an error.
ERROR_FIELDS: Dict[str, str] = {
    "authenticate": "authenticate_response.error_status",
    "api_init_request": "api_init_response.error_message",
    "api_request": "api_response.api_error_response.message",
    "record.run": "result_communicate.run_result.error.message",
    **{
        f"request.{name}": f"result_communicate.response.{name}_response.{field}"
        for name, field in [
            ("attach", "error.message"),
            ("download_artifact", "error_message"),
            ("link_artifact", "error_message"),
            ("log_artifact", "error_message"),
        ]
    },
    "request.sync": "result_communicate.response.sync_response.error.message",
    "request.sync_finish": "result_communicate.response.sync_response.error.message",
}
