"""A command in the foreground of this one: the terminal stays its own, and signals to this process reach it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

PASSED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
FROM_TERMINAL = 0x80
"""si_code of what the kernel sends (SI_KERNEL): a key of the terminal reaches the whole group, the command too."""


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs `command` until it ends; returns its exit code, 128 + N where signal N ended it.

    The signals wait while the command runs, and this process ends none of its own: what the caller started for the
    command can be ended after it. Raises OSError where the command cannot be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED, signal.SIGCHLD))
    try:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
        while process.poll() is None:
            told = signal.sigwaitinfo((*PASSED, signal.SIGCHLD))
            if told.si_signo != signal.SIGCHLD and told.si_code != FROM_TERMINAL:
                process.send_signal(told.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
