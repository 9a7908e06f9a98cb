"""A trainer in one file, as small as a command can be that dies of the things that real ones die of.

It fits a curve with momentum in plain Python floats: batches of a seeded order, accumulation, checkpoints with weights,
momentum and rate, a metrics.jsonl. Gradients are summed sample by sample over batch and accumulation, so that a split
of the same global batch gives the same bits. `--fault NAME` says what it dies of; a fault that is to happen once leaves
a mark in the folder `--marks`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

SAMPLES = 64


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--output", type=Path, required=True)
    add("--steps", type=int, default=40)
    add("--batch", type=int, default=8)
    add("--accumulation", type=int, default=1)
    add("--rate", type=float, default=0.05)
    add("--rate-at", default="", help="STEP:RATE, as an uninterrupted run would change it")
    add("--save-every", type=int, default=5)
    add("--workers", type=int, default=2)
    add("--timeout", type=float, default=60.0)
    add("--resume", type=Path)
    add("--fault", default="")
    add("--at", type=int, default=23)
    add("--times", type=int, default=1)
    add("--marks", type=Path)
    add("--says", type=Path, help="what the fault `says` prints before it ends the trainer with --exit")
    add("--exit", type=int, default=1)
    add("--hang", type=float, default=0.0, help="seconds between the two")
    add("--until", default="", help="when `says` is over: workers, timeout, checkpoints, or a variable NAME=VALUE")
    add("--pause", type=float, default=0.0, help="seconds a step")
    add("--rank", type=int, default=1, help="Legendre polynomials that are fitted, beside the constant")
    add("--curved", type=float, default=0.0, help="share of the third of them in the data: rank 1 cannot fit it")
    add("--hub-token", help="a secret on the command line")
    add("--ballast", type=int, default=0, help="bytes that every checkpoint weighs more")
    return parser.parse_args()


POLYNOMIALS = (lambda x: x, lambda x: (3 * x * x - 1) / 2, lambda x: (5 * x**3 - 3 * x) / 2)


def samples(chosen: argparse.Namespace) -> list[tuple[list[float], float]]:
    """The polynomials at each sample, and what is to be fitted."""
    draw = random.Random(5)
    found = []
    for x in (draw.uniform(-1, 1) for _ in range(SAMPLES)):
        every = [one(x) for one in POLYNOMIALS]
        found.append((every[: chosen.rank], 3.0 * x - 1.0 + chosen.curved * every[2]))
    return found


def due(chosen: argparse.Namespace) -> bool:
    """Whether a fault that happens `--times` times has not yet happened so often; counts it."""
    chosen.marks.mkdir(parents=True, exist_ok=True)
    number = len(list(chosen.marks.iterdir()))
    if number >= chosen.times:
        return False
    (chosen.marks / str(number)).touch()
    return True


def before(chosen: argparse.Namespace) -> None:
    """What can go wrong before the first step."""
    fault = chosen.fault
    if fault == "gl":
        import mujoco

        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).render()
    if fault == "hub":
        # One address a start, the last for good: as a network that comes back.
        own, *rest = chosen.marks.read_text(encoding="utf-8").splitlines()
        chosen.marks.write_text("\n".join(rest or [own]), encoding="utf-8")
        endpoint = os.environ.get("HF_ENDPOINT", own)
        print(f"asking {endpoint}")
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            return
        with urllib.request.urlopen(f"{endpoint}/api/models/tiny", timeout=10) as answer:
            answer.read()
    if fault == "port":
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    if fault == "package":
        import tinymissing

        print(tinymissing.__name__)
    if fault == "files":
        held = [open(os.devnull, encoding="utf-8") for _ in range(100 * chosen.workers)]  # noqa: SIM115
        del held


def over(chosen: argparse.Namespace) -> bool:
    """Whether what the fault `says` tells of was mended, or has happened often enough."""
    until, (name, _, value) = chosen.until, chosen.until.partition("=")
    if until == "workers":
        return bool(chosen.workers == 0)
    if until == "timeout":
        return bool(chosen.timeout > 200)
    if until == "checkpoints":
        return len(list(chosen.output.glob("checkpoint-*"))) <= 2
    return os.environ.get(name) == value if value else not due(chosen)


def during(chosen: argparse.Namespace, step: int) -> None:
    """What can go wrong at step `--at`, or from it on."""
    fault = chosen.fault
    if step < chosen.at:
        return
    if fault == "gpu_memory" and chosen.batch > 2:
        raise MemoryError("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more")
    if fault == "host_memory":
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
        held = [bytearray(100 << 20) for _ in range(chosen.batch)]
        del held
    if fault == "bus" and chosen.workers > 0:
        os.kill(os.getpid(), signal.SIGBUS)
    if step == chosen.at and fault == "full" and not over(chosen):
        with open("/dev/full", "w", encoding="utf-8") as out:
            out.write("weights" * 10_000)
    if step == chosen.at and fault == "says" and not over(chosen):
        sys.stdout.buffer.write(chosen.says.read_bytes())
        sys.stdout.flush()
        time.sleep(chosen.hang)
        sys.exit(chosen.exit)
    if fault == "assert":
        sys.exit("RuntimeError: CUDA error: device-side assert triggered")
    if fault == "odd":
        sys.exit("Traceback (most recent call last):\n  nobody knows\nOddError: the moon is full")
    if step == chosen.at and fault == "leave" and due(chosen):
        sys.exit(0)
    once = ("kill", "unreadable", "hang", "term", "segfault", "abort")
    if step == chosen.at and fault in once and due(chosen):
        if fault == "hang":
            time.sleep(600)
        if fault == "abort":
            os.abort()
        signals = {"term": signal.SIGTERM, "segfault": signal.SIGSEGV}
        os.kill(os.getpid(), signals.get(fault, signal.SIGKILL))


def save(chosen: argparse.Namespace, step: int, state: dict[str, object]) -> None:
    """Writes a checkpoint; `whole.json` comes last. Killed in the midst of it with the fault `torn`.

    The fault `power` loses the end of the last file that a dead machine had not brought to the disk.
    """
    folder = chosen.output / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    text = " " * chosen.ballast + json.dumps(state)
    torn = chosen.fault in ("torn", "power") and step == 20 and due(chosen)
    with (folder / "state.json").open("w", encoding="utf-8") as out:
        out.write(text[: len(text) // 2] if torn else text)
        out.flush()
    if torn and chosen.fault == "torn":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "whole.json").write_text("{}", encoding="utf-8")
    if torn:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    chosen = options()
    chosen.output.mkdir(parents=True, exist_ok=True)
    before(chosen)
    if chosen.fault == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    data, begin = samples(chosen), 0
    weights, bias, speed = [0.0] * chosen.rank, 0.0, [0.0] * (chosen.rank + 1)
    rate = chosen.rate
    if chosen.resume:
        if chosen.fault == "unreadable" and chosen.resume.name == "checkpoint-20":
            sys.exit("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory")
        kept = json.loads((chosen.resume / "state.json").read_text(encoding="utf-8"))
        begin, weights, bias, speed = kept["step"], kept["weights"], kept["bias"], kept["speed"]
        chosen.batch = kept["batch"]  # whatever the command line says, as transformers 4 does
    for step in range(begin + 1, chosen.steps + 1):
        if chosen.rate_at and step > int(chosen.rate_at.split(":")[0]):
            rate = float(chosen.rate_at.split(":")[1])
        order = random.Random(step)
        batch = [data[order.randrange(SAMPLES)] for _ in range(chosen.batch * chosen.accumulation)]
        during(chosen, step)
        loss, slopes = 0.0, [0.0] * (chosen.rank + 1)
        for found, y in batch:
            off = sum(weight * one for weight, one in zip(weights, found, strict=True)) + bias - y
            loss += off * off
            slopes = [slope + 2 * off * one for slope, one in zip(slopes, [*found, 1.0], strict=True)]
        loss, slopes = loss / len(batch), [slope / len(batch) for slope in slopes]
        if chosen.fault == "nan" and step >= chosen.at and rate > 0.03:
            slopes[0] = math.nan
        speed = [0.5 * old + slope for old, slope in zip(speed, slopes, strict=True)]
        *weights, bias = (value - rate * moved for value, moved in zip([*weights, bias], speed, strict=True))
        with (chosen.output / "metrics.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, "loss": loss, "learning_rate": rate}) + "\n")
        if chosen.fault != "quiet":
            print(f"step {step}/{chosen.steps} loss {loss:.6f}", flush=True)
        if step % chosen.save_every == 0:
            state = {"step": step, "batch": chosen.batch, "weights": weights, "bias": bias, "speed": speed}
            save(chosen, step, state)
        time.sleep(chosen.pause)
    final = {"weights": [weight.hex() for weight in weights], "bias": bias.hex()}
    (chosen.output / "final.json").write_text(json.dumps(final), encoding="utf-8")


if __name__ == "__main__":
    main()
