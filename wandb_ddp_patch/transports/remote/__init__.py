"""A run on other machines: W&B's own protocol, through a tunnel to its owner's service.

The path of a worker's call, and where to read on::

    worker's machine                              owner's machine
    ----------------                              ---------------
    run.log()
    transports/tunnel.py    attaches the run      shared_runs.py   opens a port, creates the token
         |                                             |
    wandb's own client                            gateway.py       a session for each stream:
         |  a local socket                             |             wandb_requests.py may it?
    endpoint.py             a session for each         |             received_files.py
         |                  connection                 |             wandb_responses.py no API key
         |    sent_files.py                            |
         |    session.py    records in a stream        |  a local socket
    ../../tunnel/client.py ===== TLS ===== ../../tunnel/server.py
                                                       |
                                                  W&B's own service
"""
