"""What a worker of a run may say to W&B's service, for all releases from 0.13 to 0.31.

W&B's service trusts whoever speaks to it. A worker's request is forwarded if its kind is one
that an attached run sends; whatever is not named here is refused. Kinds are named as by
``wandb_protocol.kind_and_body``.
"""

from __future__ import annotations

import enum
from typing import Dict, NamedTuple


class Action(enum.Enum):
    """What is done with a request."""

    FORWARD = "forward"
    REFUSE = "refuse"
    CLOSE = "close"


class Rule(NamedTuple):
    """What is done with requests of a kind, and why.

    Attributes:
        why: A person in the worker reads it, after the name of what was refused.
    """

    action: Action
    why: str = ""


# cancel: a request of the same connection, or client: nobody else knows its slot.
# record.run: a name, notes and tags that are set later; see wandb_requests._RUN_FIELDS.
# record.output_logger: run.write_logs(). record.wandb_config_parameters: names of
# configuration keys, for launch.
_FORWARDED = """
    inform_attach cancel

    record.alert record.artifact record.config record.files record.history record.link_artifact
    record.metric record.output_logger record.preempting record.run record.summary
    record.tbrecord record.telemetry record.use_artifact record.wandb_config_parameters

    request.attach request.cancel request.get_summary request.get_system_metadata
    request.get_system_metrics request.history_step request.internal_messages request.job_input
    request.keepalive request.link_artifact request.log_artifact request.network_status
    request.operations request.partial_history request.run_status request.sampled_history
    request.server_feature request.server_info request.status request.stop_status
"""

# Both are about this worker's connection. wandb-core closes it at inform_detach, a kind that it
# does not know, and would end itself at inform_teardown, with all the runs in it.
_CLOSING = "inform_detach inform_teardown"

# api_*, sweep_scheduler_*: they come with settings of the worker's, and would read and write
# the owner's files with its key. request.download_artifact: the service would write into a
# folder of the owner's, from which nothing comes back. request.python_packages: it writes
# requirements.txt anew. request.pause and resume: of the measuring of the owner's machine.
# request.test_inject: it makes the service fail.
_REFUSED = {
    "only the process that called wandb.init() ends the run": """
        inform_finish record.exit record.final record.footer request.defer request.poll_exit
        request.run_finish_without_exit request.shutdown
    """,
    "only the process that called wandb.init() starts the run": """
        inform_init inform_start record.environment record.header request.check_version
        request.pause request.probe_system_info request.python_packages request.resume
        request.run_start
    """,
    "only the process that called wandb.init() has its output logged": """
        record.output record.output_raw
    """,
    "a worker may only write the run that it shares": """
        init_sync sync sync_status request.sync request.sync_finish
    """,
    "a worker on another machine can't use the service of the run's owner": """
        authenticate api_init_request api_request api_cleanup_request sweep_scheduler_init
        sweep_scheduler_next_task sweep_scheduler_stop record.api_request
        request.download_artifact request.login
    """,
    "W&B's service says this to itself": """
        record.stats request.file_transfer_info request.metadata request.sender_mark
        request.sender_read request.status_report request.summary_record
        request.telemetry_record request.test_inject
    """,
    "no worker needs it": """
        record.noop_link_artifact request.artifact_done request.artifact_poll
        request.artifact_send request.job_info
    """,
}

RULES: Dict[str, Rule] = {
    **dict.fromkeys(_FORWARDED.split(), Rule(Action.FORWARD)),
    **dict.fromkeys(_CLOSING.split(), Rule(Action.CLOSE)),
    **{kind: Rule(Action.REFUSE, why) for why, kinds in _REFUSED.items() for kind in kinds.split()},
}

UNKNOWN = Rule(Action.REFUSE, "it is not known to this version of wandb_ddp_patch")

# Where the answer to a refused request has room for an error, as the path of its field in
# ServerResponse. Where it has none, releases from 0.26 on have an answer that is an error.
_RESPONSE = "result_communicate.response"
ERROR_FIELDS: Dict[str, str] = {
    "authenticate": "authenticate_response.error_status",
    "api_init_request": "api_init_response.error_message",
    "api_request": "api_response.api_error_response.message",
    "record.run": "result_communicate.run_result.error.message",
    "request.attach": f"{_RESPONSE}.attach_response.error.message",
    "request.download_artifact": f"{_RESPONSE}.download_artifact_response.error_message",
    "request.link_artifact": f"{_RESPONSE}.link_artifact_response.error_message",
    "request.log_artifact": f"{_RESPONSE}.log_artifact_response.error_message",
    "request.sync": f"{_RESPONSE}.sync_response.error.message",
    "request.sync_finish": f"{_RESPONSE}.sync_response.error.message",
}
