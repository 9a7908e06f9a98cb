"""A trainer on torch that dies of the real thing: gloo, torch's allocator, loader and files, the hub's client.

It fits a line in float64, alone or under torchrun, with checkpoints of weights, optimizer and step. `--trouble` says
what stands in its way; whether it dies of that is up to the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((self.width,), index / 64, dtype=torch.float64)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--output", type=Path, required=True)
    add("--steps", type=int, default=24)
    add("--batch", type=int, default=8)
    add("--accumulation", type=int, default=1)
    add("--rate", type=float, default=0.1)
    add("--rate-at", default="")
    add("--workers", type=int, default=0)
    add("--timeout", type=float, default=60.0)
    add("--width", type=int, default=1)
    add("--resume", type=Path)
    add("--trouble", default="")
    return parser.parse_args()


def prepare(chosen: argparse.Namespace) -> None:
    """What the trouble is."""
    if chosen.trouble == "hub":
        from huggingface_hub import hf_hub_download

        print(hf_hub_download("graft/tiny", "config.json", cache_dir=chosen.output / "hub"))
    if chosen.trouble == "memory":
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + (700 << 20), here + (700 << 20)))


def main() -> None:
    chosen = options()
    chosen.output.mkdir(parents=True, exist_ok=True)
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if ranks > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=chosen.timeout))
    prepare(chosen)
    if chosen.trouble == "slow" and rank == 1:
        time.sleep(12)
    line = torch.nn.Linear(1, 1, dtype=torch.float64)
    torch.nn.init.zeros_(line.weight)
    torch.nn.init.zeros_(line.bias)
    optimizer = torch.optim.SGD(line.parameters(), lr=chosen.rate, momentum=0.5)
    begin = 0
    if chosen.resume:
        kept = torch.load(chosen.resume / "state.pt", weights_only=True)
        line.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        begin = kept["step"]
        for group in optimizer.param_groups:
            group["lr"] = chosen.rate
    data = iter(DataLoader(Samples(chosen.width), batch_size=chosen.batch, num_workers=chosen.workers))
    for step in range(begin + 1, chosen.steps + 1):
        if chosen.rate_at and step > int(chosen.rate_at.split(":")[0]):
            optimizer.param_groups[0]["lr"] = float(chosen.rate_at.split(":")[1])
        if chosen.workers and step % 4 == 0:
            next(data, None)
        if chosen.trouble == "memory" and step > 9:
            torch.zeros(chosen.batch, 32 << 20, dtype=torch.float32).sum()
        torch.manual_seed(1000 * step)
        x = torch.rand(chosen.batch * chosen.accumulation, 1, dtype=torch.float64)
        optimizer.zero_grad()
        # Sample by sample: the same sums whatever the batch is split into.
        losses = [((line(one) - 3 * one + 1) ** 2).mean() for one in x]
        torch.stack(losses).mean().backward()
        if ranks > 1:
            for parameter in line.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= ranks
        loss = float(torch.stack(losses).mean())
        optimizer.step()
        if rank == 0:
            with (chosen.output / "metrics.jsonl").open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": step, "loss": loss, "learning_rate": chosen.rate}) + "\n")
            print(f"step {step}/{chosen.steps} loss {loss:.6f}", flush=True)
            if step % 4 == 0:
                save(chosen, step, line, optimizer)
    if rank == 0:
        (chosen.output / "final.json").write_text(json.dumps([value.item().hex() for value in line.parameters()]))
    if ranks > 1:
        dist.destroy_process_group()


def save(chosen: argparse.Namespace, step: int, line: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    folder = chosen.output / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    state = {"model": line.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    # The old form is no archive and has no checksum: nothing but loading it tells that its end is missing.
    old = chosen.trouble == "pickled"
    torch.save(state, folder / "state.pt", _use_new_zipfile_serialization=not old)
    (folder / "whole.json").write_text("{}", encoding="utf-8")
    if old and step == 8 and not chosen.resume:
        os.truncate(folder / "state.pt", (folder / "state.pt").stat().st_size - 40)
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    main()
