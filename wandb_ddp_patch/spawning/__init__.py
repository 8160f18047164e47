"""spawn() and warm_up(): workers from a forkserver that has imported the script.

launch.py starts them, server.py the forkserver, preload.py runs in that, arrival.py in
each worker before its function is called.
"""
