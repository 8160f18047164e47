"""How a call that a worker makes on a run reaches the process that owns the run.

There are three transports, and ``selection.select()`` chooses among them: W&B's service on this
machine (``service.py``), the same service through a tunnel (``tunnel.py``, ``remote/``), and, up
to wandb 0.12, the owner itself (``local.py``).
"""
