"""How long tests wait. Scripts that run with other releases import this: nothing else is needed.

A limit is there for what hangs, so that it ends and says where. It says nothing of
speed: a machine that is busy with other work may take twenty times as long.
"""

# For a script, or an interpreter, that a test has started.
HANG_SECONDS = 600

# For one wait within such a script: it then says itself what did not come.
WAIT_SECONDS = 240

# For what must not wait, but for the processor. To attach to a service that is gone,
# or that does not know the run, wandb takes 10 s or more.
AT_ONCE_SECONDS = 9

# For what has work to do, and then must not wait: a process that ends, a run that is
# finished. What waits in vain there waits 30 s or more.
SOON_SECONDS = 29
