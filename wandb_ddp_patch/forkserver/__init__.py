"""spawn() and warm_up(): workers from a forkserver that has imported the script.

The life of one start:

0. While the script still imports, early_signs.py says whether workers are to be expected. If so,
   early_start.py starts a process in the background, early_server.py, which imports libraries.
1. launch.py checks what it is called with (arguments.py), and has server.py start the forkserver,
   where none is running: by that process, if it fits, or by a new one (command.py).
2. preload.py imports the script there, once, and records what that does (import_audit.py,
   process_state.py, library_state.py, open_files.py).
3. selftest.py has a first worker try whether forks of it work. If they don't, workers are spawned,
   and a warning says why.
4. torch starts the workers. In each, bootstrap.py restores the environment, the streams, the run
   and random numbers before the user's function is loaded.
5. parent_watch.py ends a worker whose parent ends first.

unchanged/ has torch's own spawn start its workers like this, where they would not differ from
spawned ones.
"""
