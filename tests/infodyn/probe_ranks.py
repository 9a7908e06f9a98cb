"""One of several ranks that evaluate under a probe: ``python probe_ranks.py RANK SIZE STORE FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "overlays" / "common")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from infodyn.module_paths import ProbeError  # noqa: E402
from infodyn.probe import ActivationProbe  # noqa: E402
from infodyn.sample_probe import SampleProbe  # noqa: E402
from moe_toys import classifier, pictures  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset  # noqa: E402

SAMPLES, BATCH = 23, 4
SPEC = {"name": "p", "source_modules": ["blocks.*.moe.experts.*"], "target_modules": ["norm", "head"]}


def loader(dealt: str, rank: int, size: int) -> DataLoader:
    data = TensorDataset(*pictures(SAMPLES))
    if dealt == "samples":
        sampler = DistributedSampler(data, size, rank, shuffle=False)
        return DataLoader(data, BATCH, sampler=sampler)
    plain = DataLoader(data, BATCH)
    if dealt == "whole":
        return plain
    from accelerate.data_loader import prepare_data_loader

    return prepare_data_loader(plain, num_processes=size, process_index=rank, put_on_device=False)


def main() -> None:
    rank, size, store, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    model = DistributedDataParallel(classifier()).eval()
    for dealt in ("samples", "batches", "whole"):
        probe = ActivationProbe(
            [SPEC], folder / dealt, "toy", validation_subset_size=9, tokens_per_sample=3, seed=5, dealt=dealt
        )
        with probe.watch(model, 1, SAMPLES) as watch, torch.no_grad():
            for inputs, _ in watch.batches(loader(dealt, rank, size)):
                model(inputs)
        dist.barrier()
    # Samples that each rank takes its share of: nine, so that one of two ranks runs one twice.
    options = {"probes": [SPEC], "validation_subset_size": 9, "tokens_per_sample": 3, "seed": 5}
    x, _ = pictures(SAMPLES)
    kept = SampleProbe(
        options, folder / "kept", "toy", model.module, lambda n, _: x[:n, None], lambda model, sample: model(sample)
    )
    kept.evaluate(model.module, 1)
    # A file that the first rank cannot write is told on all of them, and none waits for another.
    (folder / "blocked").mkdir(exist_ok=True)
    (folder / "blocked" / "probes").write_text("in the way")
    probe = ActivationProbe([SPEC], folder / "blocked", "toy", validation_subset_size=9, dealt="whole")
    try:
        with probe.watch(model, 1, SAMPLES) as watch, torch.no_grad():
            for inputs, _ in watch.batches(loader("whole", rank, size)):
                model(inputs)
    except ProbeError as error:
        print("told", error, flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
