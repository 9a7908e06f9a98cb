"""The order of samples under a dynamic schedule."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch.utils.data import Sampler


class ChunkSampler(Sampler[int]):
    """One iteration is one chunk: samples of the task that ``next_chunk`` names when the iteration begins.

    A chunk is an epoch to the Trainer. So the task is asked for after the evaluation at the last chunk's end, however
    far a data loader reads ahead, and resuming inside a chunk skips within the same samples.

    Args:
        rows: row numbers by task.
        chunk_size: samples a chunk, over all ranks.
        next_chunk: the task, and how many of its samples were drawn before; None where there is no more to train.
        seed: of the order; a task's samples are all drawn before one is drawn again, each pass in an order of its own.
        shuffle: if false every pass goes in the data set's order.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[int]],
        chunk_size: int,
        next_chunk: Callable[[], tuple[str, int] | None],
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self.rows, self.chunk_size, self.next_chunk = rows, chunk_size, next_chunk
        self.seed, self.shuffle = seed, shuffle

    def __len__(self) -> int:
        return self.chunk_size

    def __iter__(self) -> Iterator[int]:
        chunk = self.next_chunk()
        if chunk is None:
            return

        task, drawn = chunk
        rows = self.rows[task]
        order: list[int] = []
        for position in range(drawn, drawn + self.chunk_size):
            passes, place = divmod(position, len(rows))
            if place == 0 or not order:
                order = self._order(task, passes)

            yield rows[order[place]]

    def _order(self, task: str, passes: int) -> list[int]:
        count = len(self.rows[task])
        if not self.shuffle:
            return list(range(count))

        # Python's own hash of a text differs from process to process, and ranks are processes.
        digest = hashlib.sha256(f"{self.seed}/{task}/{passes}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randperm(count, generator=generator).tolist()
