"""spawn() and warm_up(): workers from a forkserver that has imported the script.

launch.py starts them, server.py the forkserver, trial.py asks whether that is of use,
preload.py runs in it, arrival.py in each worker before its function is called, and
parent.py ends a worker whose parent has ended.

unchanged.py has torch's own spawn start them: forked.py makes them what spawned workers
are, circumstances.py says what that takes, and files.py closes what they hold at their end.

kernel.py compares forks of the forkserver with spawned workers, in what the kernel shows, and
origin.py tells the script's own code from packages.
"""
