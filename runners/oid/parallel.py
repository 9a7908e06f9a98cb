"""Many estimates in processes of their own, and how far they are."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from runners.oid.estimate import Result, Settings, Task

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def one_thread() -> None:
    """Lets numeric libraries of processes that begin from here on use one thread: the pairs are what is parallel."""
    os.environ.update(dict.fromkeys(THREADS, "1"))


def estimates(tasks: Iterable[Task], settings: Settings, jobs: int) -> Iterator[Result]:
    """The results, in the order in which they come; at most two tasks a process are in memory."""
    # Late: numpy reads its number of threads when it is imported.
    from runners.oid.estimate import estimate

    if jobs == 1:
        yield from (estimate(task, settings) for task in tasks)
        return
    # Not forked: the parent has threads of torch.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    waiting: set[Future[Result]] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(estimate, task, settings))
            if len(waiting) >= 2 * jobs:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Progress:
    """A bar on a terminal; elsewhere a line at the beginning and at each tenth."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.stream = stream or sys.stderr
        self.bar = self.stream.isatty()
        self.began = time.monotonic()
        self._show()

    def step(self) -> None:
        self.done += 1
        if self.bar or self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self.began
        words = f"{self.what}: {self.done} of {self.total}, {seconds:.0f} s"
        if not self.bar:
            print(words, file=self.stream, flush=True)
            return
        full = 30 * self.done // max(self.total, 1)
        end = "\n" if self.done == self.total else ""
        print(f"\r[{'#' * full}{'.' * (30 - full)}] {words}", end=end, file=self.stream, flush=True)
