"""A run whose worker speaks to W&B's service through the checks for other machines.

Run by the interpreter of any wandb release; without the patch, whose modules it uses.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading

from wandb_ddp_patch.transports.remote import wandb_paths, wandb_requests, wandb_responses
from wandb_ddp_patch.transports.remote.wandb_protocol import (
    MessageDecoder,
    frame,
    kind_and_body,
    parse_request,
)
from wandb_ddp_patch.transports.remote.wandb_rules import Action


class CheckedService:
    """An endpoint that passes on what is let through."""

    def __init__(self, run, allowed_path):
        self.check = wandb_requests.RequestCheck(
            run.id, allowed_path, run.entity or "", run.project or ""
        )
        self.seen, self.refused, self.paths = set(), [], []
        token = os.environ["WANDB_SERVICE"]
        start, self._is_unix = token, "-unix-" in token
        if self._is_unix:
            start, self._address = token.split("-unix-")
            self._family, local = socket.AF_UNIX, os.path.join(os.getcwd(), "s")
        else:
            start, _, port = token.rpartition("-")
            self._family, self._address, local = socket.AF_INET, ("localhost", int(port)), ("", 0)
        self._listener = socket.socket(self._family)
        self._listener.bind(local)
        self._listener.listen(5)
        name = local if self._is_unix else self._listener.getsockname()[1]
        self.token = f"{start}-unix-{name}" if self._is_unix else f"{start}-{name}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self._listener.accept()
            service = socket.socket(self._family)
            service.connect(self._address)
            for target in (self._requests, self._responses):
                threading.Thread(target=target, args=(client, service), daemon=True).start()

    def _requests(self, client, service):
        splitter, is_open = MessageDecoder(), True
        with contextlib.suppress(OSError):
            while is_open:
                data = client.recv(65536)
                is_open = bool(data) and all(
                    self._pass_on(message, client, service) for message in splitter.feed(data)
                )
        for end in (client, service):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, message, client, service):
        kind, body = kind_and_body(parse_request(message))
        self.seen.add(kind)
        self.paths += [field.path for field in wandb_paths.path_fields(kind, body)]
        verdict = self.check.check(message)
        if verdict.action is Action.FORWARD:
            service.sendall(frame(message if verdict.changed is None else verdict.changed))
            return True
        self.refused.append([kind, verdict.reason])
        if verdict.action is Action.CLOSE:
            return False
        answer = wandb_requests.refusal(message, verdict.reason)
        if answer is not None:
            client.sendall(frame(answer))
        return answer is not None or not verdict.is_waited_for

    def _responses(self, client, service):
        splitter = MessageDecoder()
        with contextlib.suppress(OSError):
            while True:
                data = service.recv(65536)
                if not data:
                    break
                for message in splitter.feed(data):
                    clean = wandb_responses.clean_response(message)
                    assert os.environ["WANDB_API_KEY"].encode() not in clean
                    client.sendall(frame(clean))
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def owner(worker_code):
    import wandb

    run = wandb.init(project="project", config={"lr": 0.1})
    staging = os.path.join(os.getcwd(), "data")
    service = CheckedService(run, lambda path: path if path.startswith(staging) else None)
    env = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    env.update(
        WANDB_SERVICE=service.token,
        WANDB_DATA_DIR=staging,
        WANDB_DIR=os.getcwd(),
        RUN_ID=run.id,
    )
    os.makedirs(staging, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", worker_code],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    run.log({"after": 1})
    summary = dict(run.summary)
    folder = run.dir
    run.finish()
    found = {"worker": done.stdout, "summary": sorted(summary), "files": files_in(folder)}
    found.update(seen=sorted(service.seen), refused=service.refused, paths=service.paths)
    print(json.dumps(found))


def files_in(folder):
    return sorted(
        os.path.relpath(os.path.join(at, name), folder)
        for at, _, names in os.walk(folder)
        for name in names
    )


if __name__ == "__main__":
    owner(sys.argv[1])
