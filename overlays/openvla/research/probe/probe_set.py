"""A probe set in its folder: ``probe.jsonl``, the pictures as PNG, and ``meta.json`` with the hash of both.

It holds no actions, so there is no loss to be had from it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .coverage import Candidate, content_hash
from .sources import ProbeError, read_picture

FORMAT = 1


@dataclass(frozen=True)
class ProbeSample:
    """One pair. The picture is read when it is asked for: RGB, as large as it was stored."""

    id: str
    instruction: str
    path: Path

    @property
    def image(self) -> Image.Image:
        with Image.open(self.path) as picture:
            return picture.convert("RGB")


@dataclass(frozen=True)
class ProbeSet:
    """A probe set as it lies in ``folder``; ``hash`` is the SHA-256 of its instructions and pixels, in order."""

    folder: Path
    samples: tuple[ProbeSample, ...]
    meta: dict[str, Any] = field(compare=False)

    @property
    def hash(self) -> str:
        return self.meta["hash"]

    def __len__(self) -> int:
        return len(self.samples)

    def sub_batch(self, indices: Sequence[int]) -> list[ProbeSample]:
        """The samples at ``indices``, in that order: what ``hidden_and_mask.collate`` takes."""
        return [self.samples[index] for index in indices]

    @classmethod
    def load(cls, folder: Path | str) -> ProbeSet:
        """Read and check a probe set. Raises ``ProbeError`` for one that is missing, incomplete or changed."""
        folder = Path(folder)
        meta, rows = _read_folder(folder)
        if meta.get("format") != FORMAT:
            raise ProbeError(f"{folder / 'meta.json'}: format {meta.get('format')!r}, not {FORMAT}; {_MAKE_ANEW}")
        if len({row["id"] for row in rows}) != len(rows):
            raise ProbeError(f"{folder / 'probe.jsonl'}: two samples have the same id; {_MAKE_ANEW}")
        pictures = (read_picture(str(folder / "probe.jsonl"), folder, row["image"]) for row in rows)
        found = content_hash(zip((row["instruction"] for row in rows), pictures, strict=True))
        if found != meta["hash"]:
            raise ProbeError(
                f"{folder}: instructions or pictures have changed: their hash is {found[:12]}, "
                f"meta.json has {str(meta['hash'])[:12]}; {_MAKE_ANEW}"
            )
        samples = tuple(ProbeSample(row["id"], row["instruction"], folder / row["image"]) for row in rows)
        return cls(folder, samples, meta)


_MAKE_ANEW = "make the probe set anew with python -m research.probe.probe_dataset, and the subspaces with it"


def _read_folder(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (folder / "probe.jsonl").read_text(encoding="utf-8").splitlines()]
        missing = {"hash", "n"} - set(meta) or {
            key for row in rows for key in {"id", "image", "instruction"} - set(row)
        }
    except FileNotFoundError as error:
        raise ProbeError(f"no probe set in {folder}: {error.filename} is missing; {_MAKE_ANEW}") from error
    except (ValueError, TypeError) as error:
        raise ProbeError(f"{folder}: meta.json or probe.jsonl cannot be read ({error}); {_MAKE_ANEW}") from error
    if missing or not rows:
        raise ProbeError(f"{folder}: {'no samples' if not rows else f'{sorted(missing)} missing'}; {_MAKE_ANEW}")
    return meta, rows


def write_probe_set(out: Path, samples: Sequence[Candidate], seed: int, source: dict[str, Any]) -> ProbeSet:
    """Write samples (named) as a probe set, whole or not at all, and load it.

    Raises ``ProbeError`` if there are no samples, or something lies at ``out`` already.
    """
    if not samples:
        raise ProbeError(f"no samples for {out}: the source {source} has none with an instruction")
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (building / "images").mkdir()
        rows = []
        for number, sample in enumerate(samples):
            image = f"images/{number:05d}.png"
            Image.fromarray(sample.picture).save(building / image)
            rows.append({"id": sample.name, "image": image, "instruction": sample.instruction})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (building / "probe.jsonl").write_text(lines, encoding="utf-8")
        meta = {
            "format": FORMAT,
            "hash": content_hash((sample.instruction, sample.picture) for sample in samples),
            "n": len(samples),
            "instructions": len({sample.instruction for sample in samples}),
            "seed": seed,
            "source": source,
        }
        (building / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        building.chmod(0o777 & ~_umask())
        ProbeSet.load(building)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return ProbeSet.load(out)


def check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ProbeError(f"{out} is there already; name another folder, or delete it first")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
