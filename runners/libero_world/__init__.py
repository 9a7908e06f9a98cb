"""LIBERO's tasks in closed loop with a starVLA policy that runs in a process and an environment of its own, and what
such a policy learns from.

`policy` and `remote` are the two ends of a pipe. `task` and `world` need LIBERO and robosuite, `policy` starVLA,
`demonstrations` h5py, `dataset` pyarrow, `record` all of those but starVLA, others numpy.
"""
