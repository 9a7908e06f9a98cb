"""The Omega-ID analysis of a run: 6 pairs of experts in 10 epochs, 64 features, reading and pictures included.

    python bench/oid.py [--json] [--runs N]        in the environment of `make infodyn`

Ten probe files of 2000 samples, four experts and one target of 64 features each, are written to a temporary folder;
then `python -m runners analyze-oid` runs on it with its default options (rank 4, 50 surrogates and 50 halves) in two
processes, as its users start it. The figure is the wall time of that command. The last line is one JSON object.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import arguments, finish, median, seconds

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "overlays" / "common")]
GOAL = 120.0
EPOCHS, EXPERTS, SAMPLES, FEATURES, JOBS = 10, 4, 2000, 64, 2


def write_run(run: Path) -> None:
    """Experts that hold a common cause and one of their own, and a target that adds all of them."""
    import torch
    from infodyn.probe_file import probe_path, write_probe_file

    torch.manual_seed(0)
    ways = [torch.randn(4, FEATURES) for _ in range(EXPERTS + 1)]
    for epoch in range(EPOCHS):
        causes = torch.randn(EXPERTS + 1, SAMPLES, 4)
        held = [causes[0] + cause for cause in causes[1:]]
        sources = {f"experts.{i}": held[i] @ ways[i] + 0.3 * torch.randn(SAMPLES, FEATURES) for i in range(EXPERTS)}
        target = sum(held) @ ways[-1] + 0.3 * torch.randn(SAMPLES, FEATURES)
        metadata = {
            "probe_name": "bench",
            "epoch": epoch,
            "source_modules": list(sources),
            "target_modules": ["out"],
            "dataset_name": "synthetic",
            "expert_activation_counts": {"experts": dict.fromkeys(range(EXPERTS), SAMPLES)},
        }
        content = {
            "metadata": metadata,
            "source_activations": sources,
            "target_activations": {"out": target},
            "labels": torch.zeros(SAMPLES, dtype=torch.int64),
        }
        write_probe_file(probe_path(run, "bench", epoch), content)


def measure(runs: int) -> dict[str, Any]:
    from runners import table
    from runners.oid.decomposition import NAMES

    taken, worked = [], []

    def processor() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        write_run(run)
        command = table.command("analyze-oid", "--run-dir", folder, "--jobs", JOBS, python=sys.executable)
        for _ in range(runs):
            before = processor()
            taken.append(seconds(lambda: subprocess.run(command, check=True, capture_output=True)))
            worked.append(processor() - before)
        rows = len((run / "oid_plots" / "bench" / "atoms.csv").read_text(encoding="utf-8").splitlines()) - 1
    pairs = rows // (EPOCHS * len(NAMES))
    wall = median(taken)
    return {
        "bench": "oid",
        "seconds": wall,
        "goal": GOAL,
        "met": wall < GOAL,
        # On a machine that others use too, the processors' time says more than the clock on the wall.
        "processor_seconds": median(worked),
        "what": f"{pairs} pairs x {EPOCHS} epochs, {SAMPLES} samples, {FEATURES} features, {JOBS} processes",
    }


def main() -> None:
    options = arguments(__doc__ or "", runs=1)
    found = measure(options.runs)
    finish(
        options,
        found,
        [
            f"{found['what']}: {found['seconds']:.1f} s (goal {GOAL:.0f} s), processors "
            f"{found['processor_seconds']:.1f} s"
        ],
    )


if __name__ == "__main__":
    main()
