"""Runs that are kept: by arm, seed, and a digest of all that they depend on, so that a stopped comparison goes on."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from runners.digests import write_whole
from runners.digits import OVERLAY
from runners.digits.training import ASKING, Settings, train

Arm = tuple[str, str]
"""Schedule and router."""

CODE = (*(Path(__file__).with_name(f"{name}.py") for name in ("data", "model", "training")), OVERLAY / "infodyn")
"""What a run's numbers come from: of the package ``infodyn`` those modules that a training imports."""
MODULES = ("dynamic_scheduler", "gaussian_router", "memory_gaussian_moe", "pi", "routing_history")
MODULES += ("schedule_config", "task_metrics")


def digest_of(arm: Arm, seed: int, settings: Settings) -> str:
    """SHA-256 (hex) of arm, seed, settings, code, versions and kind of processor."""
    versions = {name: metadata.version(name) for name in ("torch", "scikit-learn")}
    # Options of the scheduler are no part of what a static schedule's runs depend on.
    shared = {key: value for key, value in asdict(settings).items() if key != "schedule" or arm[0] in ASKING}
    text = json.dumps([arm, seed, shared, versions, sys.version, platform.machine()], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for place in CODE:
        for file in [place] if place.is_file() else [place / f"{name}.py" for name in MODULES]:
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def kept_run(arm: Arm, seed: int, settings: Settings, keep: Path | None) -> dict[str, Any]:
    """What ``train`` finds: read from ``keep`` where its digest is the same, made and kept there where not.

    Raises ValueError for a file there that is none of these.
    """
    if keep is None:
        return train(*arm, seed, settings)
    digest = digest_of(arm, seed, settings)
    file = keep / f"{arm[0]}-{arm[1]}-seed-{seed}-{digest[:16]}.json"
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["digest"] == digest:
                return dict(found["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no run that was kept ({type(error).__name__}: {error}): delete it") from None
    run = train(*arm, seed, settings)
    if digest_of(arm, seed, settings) == digest:
        write_whole(file, json.dumps({"digest": digest, "run": run}))
    else:
        print(f"{arm[0]}, {arm[1]}, seed {seed}: not kept, since the code was changed while it ran", file=sys.stderr)
    return run
