"""What bench/forgetting.py runs: a seed's world, its checkpoint, every arm's fine-tuning of it; and what is kept.

A curve is kept by seed, arm, and a digest of all that it depends on: every option of the arm's fine-tuning, how its
subspaces are ranked, this file, the code that is run and grafted, versions and machine. Which other arms ran beside it
is no part of that: each trains in a process of its own, from the same checkpoint and seed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.measure import machine
from runners.digests import write_whole
from tests.standins.openvla_project import OVERLAY, REPOSITORY, STANDIN, OpenVLAProject

STEPS, EVERY = 200, 20
BATCH, RATE, RANK = 16, 5e-4, 32  # upstream's defaults
DOWNSTREAM, PROBE = 512, 256
LAYERS, GROUPS, DIRECTIONS, TESTED = "0,1,2,3", "3:3-4", 32, 192
SURGERY = {"thermostat.every": 10, "thermostat.samples": 64, "thermostat.cold_start": 2, "log_every": 20}

Arm = tuple[str | None, Mapping[str, object]]
"""How an arm's subspaces are ranked (None: the method is off), and its options that differ."""
Curve = list[tuple[int, float, float]]
"""(step, general accuracy, downstream success); step 0 is the pretrained checkpoint."""

CODE = (
    *(Path(__file__), STANDIN, STANDIN.parent, OVERLAY, REPOSITORY / "overlays" / "common"),
    *(REPOSITORY / "patches" / "openvla", REPOSITORY / "graft", REPOSITORY / "apply.py"),
)
"""Files, and folders whose Python files count; of tests/standins itself those that make and run the stand-in."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "draccus", "numpy", "pillow")


def options_of(arm: Arm) -> dict[str, object]:
    """Every option of an arm's fine-tuning but for the places that it reads and writes."""
    ranked, changes = arm
    options: dict[str, object] = {
        **{"dataset_name": "downstream", "batch_size": BATCH, "max_steps": STEPS, "save_steps": EVERY},
        **{"learning_rate": RATE, "lora_rank": RANK, "save_latest_checkpoint_only": False, "image_aug": False},
    }
    if ranked is not None:
        options |= {"surgery.enabled": True, **{f"surgery.{key}": value for key, value in SURGERY.items()}}
    return {**options, **changes}


def settings_of(arm: Arm) -> dict[str, object]:
    """What an arm's line in the results says of it."""
    return {"rank_by": arm[0], "options": options_of(arm)}


def digest_of(seed: int, arm: Arm) -> str:
    """SHA-256 (hex) of all that the arm's curve depends on."""
    versions = {"python": sys.version}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    text = json.dumps([seed, settings_of(arm), versions, machine()], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for place in CODE:
        found = [place] if place.is_file() else place.glob("*.py" if place == STANDIN.parent else "**/*.py")
        for file in sorted(found):
            digest.update(f"\0{file.relative_to(place.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def kept_run(seed: int, arms: Mapping[str, Arm], home: Path, keep: Path | None) -> dict[str, Curve]:
    """Each arm's curve: read from ``keep`` where its digest is the same, run and kept there where not."""
    digests = {name: digest_of(seed, arm) for name, arm in arms.items()}
    known = {}
    if keep is not None:
        for name, digest in digests.items():
            curve = _kept(_file(keep, seed, name, digest), digest)
            if curve is not None:
                known[name] = curve
    missing = {name: arm for name, arm in arms.items() if name not in known}
    for name, curve in seed_run(seed, missing, home) if missing else ():
        known[name] = curve
        if keep is None:
            continue
        if digest_of(seed, arms[name]) != digests[name]:
            print(f"seed {seed}, {name}: not kept, since the code was changed while it ran", file=sys.stderr)
            continue
        whole = {"digest": digests[name], "seed": seed, "arm": name, **settings_of(arms[name]), "curve": curve}
        write_whole(_file(keep, seed, name, digests[name]), json.dumps(whole))
    return {name: known[name] for name in arms}


def _file(keep: Path, seed: int, name: str, digest: str) -> Path:
    return keep / f"seed-{seed}-{name}-{digest[:16]}.json"


def _kept(file: Path, digest: str) -> Curve | None:
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        curve = [(int(step), float(general), float(downstream)) for step, general, downstream in found["curve"]]
        return curve if found["digest"] == digest else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no curve that --keep wrote ({type(error).__name__}: {error}): delete it") from None


def seed_run(seed: int, arms: Mapping[str, Arm], home: Path) -> Iterator[tuple[str, Curve]]:
    """One seed: every arm's name and curve, as soon as it is there."""
    import torch

    torch.set_num_threads(1)
    sys.path.append(str(STANDIN))
    from toy_world.batches import write_data
    from toy_world.evaluate import evaluate_checkpoint
    from toy_world.pretrain import pretrain
    from toy_world.tasks import make_world

    world = make_world(seed)
    project = OpenVLAProject.make(home / "graft")
    checkpoint = pretrain(home / "toy-7b", seed)
    write_data(home / "data", "downstream", world.samples("downstream", DOWNSTREAM))
    write_data(home / "data", "general", world.samples("general", PROBE, "probe"))

    def score(folder: Path) -> tuple[float, float]:
        found = evaluate_checkpoint(folder, world, TESTED)
        return found["general_accuracy"], found["downstream_success"]

    start = score(checkpoint)
    for name, arm in arms.items():
        ranked, place = arm[0], home / name
        options = {"vla_path": checkpoint, "data_root_dir": home / "data", **options_of(arm)}
        if ranked is not None:
            subspaces = _subspaces(project, checkpoint, home, ranked, seed)
            options |= {"surgery.probe_dir": home / "probe", "surgery.subspace_dir": subspaces}
        arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        project.run("vla-scripts/finetune.py", *arguments, cwd=place, seed=seed, timeout=1800).check()
        saved = {int(folder.name.split("--")[-1].split("_")[0]): folder for folder in place.glob("runs/*_chkpt")}
        yield name, [(0, *start), *((step, *score(saved[step])) for step in sorted(saved))]
        shutil.rmtree(place)


def _subspaces(project: OpenVLAProject, checkpoint: Path, home: Path, ranked: str, seed: int) -> Path:
    """The probe set and the subspaces ranked by ``ranked``, made where they are not there yet; the latter's folder."""
    if not (home / "probe").exists():
        probe = ("--out", home / "probe", "--data_root_dir", home / "data", "--dataset_name", "general")
        words = map(str, (*probe, "--image_size", 32, "--n", PROBE, "--seed", seed))
        project.run("-m", "research.probe.probe_dataset", *words, cwd=home / "make-probe").check()
    out = home / f"icms_{ranked}"
    if not out.exists():
        icms = ("--vla_path", checkpoint, "--probe", home / "probe", "--out", out, "--layers", LAYERS)
        more = ("--groups", GROUPS, "--r", DIRECTIONS, "--output_tokens", 7, "--rank_by", ranked, "--seed", seed)
        words = map(str, (*icms, *more, "--dtype", "float32"))
        project.run("-m", "research.icms.offline_icms", *words, cwd=home / f"make-{ranked}").check()
    return out
