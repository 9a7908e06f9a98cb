"""The artifact: fragile and plastic directions of every layer, on disk and back.

<folder>/<layer>/Uf.pt   [D, kf] float32, fragile directions, orthonormal, most vulnerable first
<folder>/<layer>/Up.pt   [D, kp] float32, plastic directions, orthonormal and orthogonal to Uf
<folder>/<layer>/mu.pt   [D] float32, mean of the teacher's pooled states
<folder>/<layer>/C_T.pt  {"pooled": [N, D] float32, "ids": N strings}: the teacher's covariance in factored form,
                         C_T = Z^T Z / (N - 1) with Z = pooled - mu; never the D x D matrix
<folder>/meta.json       what it was made from and how, and the SHA-256 of each of those files
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
REMEDY = "make it anew with `python -m research.icms.offline_icms`"
_TOLERANCE = 1e-4


class SubspaceError(ValueError):
    """An artifact that is missing, damaged, or made for something else."""


@dataclass(frozen=True)
class LayerSubspace:
    """One layer's subspace, shared by ``members``. Shapes as in the module's docstring; on the CPU."""

    layer: int
    members: tuple[int, ...]
    Uf: torch.Tensor
    Up: torch.Tensor
    mu: torch.Tensor
    pooled: torch.Tensor
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Subspaces:
    """All layers' subspaces, by representative layer, and what ``meta.json`` says."""

    meta: dict[str, Any]
    layers: dict[int, LayerSubspace]

    @classmethod
    def load(cls, folder: str | Path) -> Subspaces:
        """Read an artifact, tensors with ``weights_only=True``. Raises ``SubspaceError`` for a missing or damaged
        file."""
        folder = Path(folder)
        meta = _read_meta(folder)
        layers = {int(n): _read_layer(folder, int(n), meta) for n in meta["layers"]}
        return cls(meta, layers)

    def save(self, folder: str | Path) -> None:
        """Write the artifact whole or not at all, in the place of an older one.

        Raises ``SubspaceError`` if something else is there: see ``check_target``.
        """
        folder = Path(folder)
        check_target(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new, old = (folder.with_name(f".{folder.name}.{word}-{os.getpid()}") for word in ("new", "old"))
        try:
            new.mkdir()
            self._write(new)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        digests = {}
        for n, layer in self.layers.items():
            (folder / str(n)).mkdir()
            for name, value in _contents(layer).items():
                path = folder / str(n) / f"{name}.pt"
                torch.save(value, path)
                digests[f"{n}/{name}.pt"] = _digest(path)
        meta = {"format": FORMAT, **self.meta, "files": digests}
        meta["layers"] = {
            str(n): {**self.meta["layers"].get(str(n), {}), "members": list(layer.members)}
            for n, layer in self.layers.items()
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def check(
        self,
        *,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        template: str | None = None,
        probe_hash: str | None = None,
    ) -> None:
        """Hold the artifact against the model, template and probe set at hand; what is ``None`` is not compared.

        Raises ``SubspaceError``, naming what differs and what to do, before anything is trained.
        """
        model = self.meta["model"]
        found: Mapping[str, tuple[Any, Any, str]] = {
            "hidden size": (model["hidden_size"], hidden_size, f"use the model it was made from ({model['path']})"),
            "number of layers": (model["num_layers"], num_layers, f"use the model it was made from ({model['path']})"),
            "prompt template": (self.meta["template"], template, "use the prompt builder that it was made with"),
            "probe set": (self.meta["probe"]["hash"], probe_hash, "use the probe set that it was made with"),
        }
        for thing, (made, given, remedy) in found.items():
            if given is not None and given != made:
                raise SubspaceError(
                    f"{thing}: the subspaces were made with {made!r}, here it is {given!r}; {remedy}, or {REMEDY}"
                )


def check_target(folder: Path) -> None:
    """Raises ``SubspaceError`` if ``folder`` is what an artifact must not replace: no artifact, and not empty."""
    if folder.is_dir() and ((folder / "meta.json").is_file() or not any(folder.iterdir())):
        return
    if folder.exists() or folder.is_symlink():
        raise SubspaceError(f"{folder} is there and is no subspace artifact; choose another --out or move it away")


def _contents(layer: LayerSubspace) -> dict[str, Any]:
    return {
        "Uf": layer.Uf.contiguous(),
        "Up": layer.Up.contiguous(),
        "mu": layer.mu.contiguous(),
        "C_T": {"pooled": layer.pooled.contiguous(), "ids": list(layer.ids)},
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubspaceError(f"{path}: no subspace artifact there; give its folder, or {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise SubspaceError(f"{path} cannot be read ({error}); {REMEDY}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise SubspaceError(f"{path} is not of format {FORMAT}; {REMEDY}")
    missing = [name for name in ("model", "template", "layers", "probe", "files") if name not in meta]
    if missing:
        raise SubspaceError(f"{path} lacks {', '.join(missing)}; {REMEDY}")
    return meta


def _read_layer(folder: Path, n: int, meta: Mapping[str, Any]) -> LayerSubspace:
    values: dict[str, Any] = {}
    for name in ("Uf", "Up", "mu", "C_T"):
        path = folder / str(n) / f"{name}.pt"
        if not path.is_file():
            raise SubspaceError(f"{path} is missing; {REMEDY}")
        if _digest(path) != meta["files"].get(f"{n}/{name}.pt"):
            raise SubspaceError(f"{path} is not the file that meta.json describes; {REMEDY}")
        try:
            values[name] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise SubspaceError(f"{path} holds more than tensors and was not loaded; {REMEDY}") from error
    covariance = values.pop("C_T")
    layer = LayerSubspace(
        layer=n,
        members=tuple(meta["layers"][str(n)]["members"]),
        **values,
        pooled=covariance["pooled"],
        ids=tuple(covariance["ids"]),
    )
    _check_tensors(layer, folder / str(n))
    return layer


def _check_tensors(layer: LayerSubspace, place: Path) -> None:
    size = len(layer.mu)
    shaped = (
        layer.Uf.ndim == layer.Up.ndim == layer.pooled.ndim == 2
        and len(layer.Uf) == len(layer.Up) == layer.pooled.shape[1] == size
        and len(layer.ids) == len(layer.pooled)
    )
    if not shaped:
        raise SubspaceError(f"{place}: the shapes of Uf, Up, mu and C_T do not fit together; {REMEDY}")
    basis = torch.cat([layer.Uf, layer.Up], 1).double()
    off = (basis.T @ basis - torch.eye(basis.shape[1], dtype=torch.float64)).abs().max()
    if not off <= _TOLERANCE:
        raise SubspaceError(f"{place}: Uf and Up are not orthonormal (off by {off:.1e}); {REMEDY}")
