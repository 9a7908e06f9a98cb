"""LIBERO's tasks in closed loop with a starVLA policy that runs in a process and an environment of its own.

`policy` and `remote` are the two ends of a pipe. `world` needs LIBERO and robosuite, `policy` starVLA, others numpy.
"""
