"""A run on other machines: W&B's own protocol, through a tunnel to its owner's service.

The path of a worker's call::

    worker   run.log()
             transports/tunnel.py       attaches the run, to the endpoint instead of the service
             wandb's own client
                 |  local socket
             remote/endpoint.py         a WorkerSession for each connection of the client
                 |                      sent_files.py: files go before the message that names them
             tunnel/client.py           a stream that outlives its connections
                 |  TLS over TCP
    owner    tunnel/server.py           accepts those who hold a token of shared_runs.py
             remote/gateway.py          an OwnerSession for each stream
                 |                      wandb_requests.py: what may go on; received_files.py;
                 |  local socket        wandb_responses.py: answers without the API key
             W&B's own service

``session.py`` is what both sessions share, ``records.py`` what they send to each other.
"""
