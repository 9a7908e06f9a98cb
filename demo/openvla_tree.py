"""Which openvla the demo runs: the real one where it is fetched, grafted and has its environment; else the stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import trees
from demo.runs import RunFailed
from demo.trees import missing
from tests.standins.openvla_project import REPOSITORY, STANDIN, OpenVLAProject

CHECKOUT, ENVIRONMENT = Path("upstreams/openvla"), Path(".venvs/openvla")
REAL_MODULES = ("torch", "transformers", "peft", "timm", "draccus", "wandb", "tensorflow", "dlimp")
STANDIN_MODULES = ("torch", "transformers", "peft", "accelerate", "draccus")
DATASET = "libero_spatial_no_noops"
OFFLINE = {**trees.OFFLINE, "NO_GCE_CHECK": "true", "TF_CPP_MIN_LOG_LEVEL": "3", "WANDB_MODE": "offline"}


@dataclass(frozen=True)
class Tree:
    """A grafted checkout and what it is run with. `why` says why it is a stand-in, and is empty for the real one."""

    checkout: Path
    libero: Path
    python: Path
    why: str
    maker: Sequence[str]
    """The command, without its last word, a folder, that makes model and data there."""
    code: Path
    """What that command runs: a file or a folder."""
    path: str
    """PYTHONPATH of that command."""
    model: str
    data: str
    settings: Sequence[str]
    """The runner's `--set` for a model of this size."""

    @property
    def real(self) -> bool:
        return not self.why


def why_not_real(report: Mapping[str, Any] | None, checkout: Path = CHECKOUT, environment: Path = ENVIRONMENT) -> str:
    """Why the real openvla does not run here, or the empty string; `report` is its entry in the JSON of `status`."""
    return trees.why_not_real(report, checkout, "vla-scripts", environment, REAL_MODULES)


def real_tree() -> Tree:
    """The real openvla, with the tiny checkpoint and the small data set of its tests."""
    maker = REPOSITORY / "tests" / "openvla_real" / "materials.py"
    libero = Path("upstreams/LIBERO")
    settings = (
        *("icsm.layers=1,2", "icsm.groups=1:0-1", "icsm.r=12", "icsm.draws=32"),
        *("finetune.batch_size=4", "finetune.lora_rank=4", "finetune.learning_rate=5e-3"),
        "finetune.shuffle_buffer_size=64",
    )
    return Tree(
        checkout=CHECKOUT.absolute(),
        # Nothing of LIBERO runs without an evaluation: where it is not fetched, no folder of it is named.
        libero=(libero if libero.is_dir() else CHECKOUT).absolute(),
        python=(ENVIRONMENT / "bin" / "python").absolute(),
        why="",
        maker=[str((ENVIRONMENT / "bin" / "python").absolute()), str(maker)],
        code=maker.parent,
        path=str(CHECKOUT.absolute()),
        model="openvla-tiny",
        data="rlds",
        settings=settings,
    )


def standin_tree(home: Path, python: Path, why: str) -> Tree:
    """The stand-in of the tests, grafted anew by the packs as they are now; `python` is LLaMA-Factory's.

    Raises RunFailed where `python` lacks a module.
    """
    if lacking := missing(python, STANDIN_MODULES):
        raise RunFailed(
            f"the stand-in for openvla cannot run: {python} lacks {', '.join(lacking)}; `make demo` installs what "
            "envs/LLaMA-Factory/requirements-standin.txt lists"
        )
    place = (home / "standin").absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        checkout = OpenVLAProject.make(place).patched
    except (RuntimeError, AssertionError) as error:
        raise RunFailed(f"the stand-in for openvla could not be grafted: {error}") from error
    settings = (
        *("icsm.layers=1,2", "icsm.groups=1:0-1", "icsm.r=16", "icsm.dtype=float32"),
        *("finetune.batch_size=8", "finetune.lora_rank=4", "finetune.learning_rate=2e-3"),
    )
    return Tree(
        checkout=checkout,
        libero=checkout,
        python=python.absolute(),
        why=why,
        maker=[str(python.absolute()), "demo/openvla_toy.py"],
        code=STANDIN,
        path=str(STANDIN),
        model="toy-7b",
        data="data",
        settings=settings,
    )


def make_materials(tree: Tree, folder: Path) -> None:
    """Makes model and data in `folder`, unless they are there from the same code.

    Raises RunFailed.
    """
    trees.make_once(tree.maker, [tree.code, Path(tree.maker[-1])], tree.path, folder, OFFLINE)
