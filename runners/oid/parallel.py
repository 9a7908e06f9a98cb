"""Many estimates in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING

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
