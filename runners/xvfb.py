"""A screen without a monitor: an Xvfb that ends with what it was started for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from runners.drawing import NoBackend

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


@contextlib.contextmanager
def screen() -> Iterator[dict[str, str]]:
    """An Xvfb on a display number of its own choosing, ended with the context, on Linux also when this process is
    killed. Yields DISPLAY.

    Raises NoBackend where there is no Xvfb or it does not start.
    """
    program = shutil.which("Xvfb")
    if program is None:
        raise NoBackend("Xvfb is not installed")
    reads, writes = os.pipe()
    # A file and no pipe: nobody reads while the server runs, and a full pipe would stop it.
    with tempfile.TemporaryFile() as said:
        try:
            server = subprocess.Popen(
                [program, "-displayfd", str(writes), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
                pass_fds=(writes,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                preexec_fn=_ends_with(os.getpid()) if sys.platform == "linux" else None,
            )
        finally:
            os.close(writes)
        try:
            with os.fdopen(reads, encoding="ascii") as answer:
                display = answer.readline().strip()
            if not display:
                server.wait()
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                raise NoBackend(f"Xvfb did not start: {''.join(last) or 'no message'}")
            yield {"DISPLAY": f":{display}"}
        finally:
            server.terminate()
            server.wait()


def _ends_with(parent: int) -> Callable[[], None]:
    """What a child calls to be ended by the kernel when the thread of `parent` that started it ends (prctl(2))."""
    prctl = ctypes.CDLL(None).prctl

    def told() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # The parent may have ended before.
        if os.getppid() != parent:
            os._exit(1)

    return told
