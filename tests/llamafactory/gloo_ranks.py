"""One of two ranks over gloo: ``python gloo_ranks.py RANK STORE FOLDER`` writes FOLDER/RANK.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny

tiny.require()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from test_hsa_models import batch  # noqa: E402
from test_schedule_session import rows_of, session, step, trainer  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

TYPES, ROWS = ("a", "b"), 4


def hsa_gradient(rank: int) -> float:
    """Length of the difference between DDP's gradient on a half each and one process's on the whole, relative."""
    ids, types = batch(rows=ROWS)
    whole, shared = (tiny.patched("qwen3", trainable=True) for _ in range(2))
    wrapped = DistributedDataParallel(shared)
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    for model, part in ((whole, slice(None)), (wrapped, half)):
        model(input_ids=ids[part], semantic_ids=types[part], labels=ids[part]).loss.backward()
    pairs = list(zip(shared.parameters(), whole.parameters(), strict=True))
    gap = sum(float((one.grad - other.grad).square().sum()) for one, other in pairs) ** 0.5
    return gap / sum(float(other.grad.square().sum()) for _, other in pairs) ** 0.5


def schedule(rank: int, folder: Path) -> dict[str, object]:
    """A chunk of each task, measured from losses that are not the same on both ranks, and the choice after it."""
    made = trainer(folder / str(rank), a=rows_of(2, 1), b=rows_of(2, 2))
    made.is_world_process_zero = lambda: rank == 0
    (folder / str(rank)).mkdir()
    under_way = session(made, tasks=TYPES, chunk_steps=1)
    seen = []
    for number in range(3):
        made.state.global_step = number
        seen.append(under_way.next_chunk()[0])
        step(under_way.recorder.steps, under_way.task, 2.0 + 4.0 * rank)
        made.state.global_step = number + 1
        for task, loss in (("a", 1.0 + rank), ("b", 8.0 - rank)):
            under_way.recorder.tokens[task] = torch.tensor([loss, 2.0, rank, 4.0 - rank], dtype=torch.float64)
        under_way.end_of_evaluation()
    history = {task: [entry.to_dict() for entry in entries] for task, entries in under_way.task_history.items()}
    told = ""
    # A rank that would go another way: the task that the first has just been given is the second's to come.
    under_way.scheduler.select_next_task = lambda task: TYPES[rank]
    try:
        under_way.next_chunk()
    except RuntimeError as error:
        told = str(error)
    return {"seen": seen, "history": history, "told": told}


def main() -> None:
    rank, store, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {"hsa": hsa_gradient(rank), **schedule(rank, folder)}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
