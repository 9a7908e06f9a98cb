"""Which starVLA the demo runs: the real one where it is fetched, grafted and has its environment; else the stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import trees
from demo.runs import RunFailed
from demo.trees import missing, pristine
from tests.standins.starvla_project import REPOSITORY, STANDIN, StarVLAProject

CHECKOUT, ENVIRONMENT = Path("upstreams/starVLA"), Path(".venvs/starVLA")
PARTS = ("starVLA", "deployment", "examples")
"""What the demo runs of it."""
REAL_MODULES = ("torch", "transformers", "accelerate", "deepspeed", "diffusers", "omegaconf", "pandas", "wandb", "cv2")
STANDIN_MODULES = ("torch", "transformers", "accelerate", "omegaconf", "pandas", "pyarrow")
OFFLINE = {
    **trees.OFFLINE,
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Tree:
    """A grafted checkout, the same tree without the graft, and what both are run with.

    `why` says why it is a stand-in, and is empty for the real one.
    """

    checkout: Path
    pristine: Path
    python: Path
    why: str
    maker: Sequence[str]
    """The command, without its last word, a folder, that makes model and data there."""
    code: Sequence[Path]
    """What that command runs."""
    path: str
    """PYTHONPATH of that command."""
    mixture: str
    patch: int
    """Side of a geometry token, in pixels of the data's depth maps."""
    preload: Sequence[str]
    """Large packages that every run imports."""

    @property
    def real(self) -> bool:
        return not self.why


def why_not_real(report: Mapping[str, Any] | None, checkout: Path = CHECKOUT, environment: Path = ENVIRONMENT) -> str:
    """Why the real starVLA does not run here, or the empty string; `report` is its entry in the JSON of `status`."""
    return trees.why_not_real(report, checkout, "starVLA/training", environment, REAL_MODULES)


def real_tree(home: Path) -> Tree:
    """The real starVLA, with the tiny model and the small data set of its tests.

    Raises RunFailed where git cannot give HEAD's own files.
    """
    python, tests = ENVIRONMENT / "bin" / "python", REPOSITORY / "tests" / "starvla_real"
    return Tree(
        checkout=CHECKOUT.absolute(),
        pristine=pristine(CHECKOUT, home / "pristine", PARTS),
        python=python.absolute(),
        why="",
        maker=[str(python.absolute()), str(tests / "materials.py")],
        code=[tests],
        path=str(CHECKOUT.absolute()),
        mixture="tiny_next",
        patch=8,
        preload=(
            *("torch", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "accelerate", "deepspeed", "diffusers"),
            *("pandas", "pyarrow.parquet", "cv2", "albumentations", "timm", "omegaconf", "numpydantic", "wandb"),
        ),
    )


def standin_tree(home: Path, python: Path, why: str) -> Tree:
    """The stand-in of the tests, grafted anew by the packs as they are now; `python` is LLaMA-Factory's.

    Raises RunFailed where `python` lacks a module.
    """
    if lacking := missing(python, STANDIN_MODULES):
        raise RunFailed(
            f"the stand-in for starVLA cannot run: {python} lacks {', '.join(lacking)}; `make demo` installs what "
            "envs/LLaMA-Factory/requirements.txt lists"
        )
    place = (home / "standin").absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        project = StarVLAProject.make(place)
    except (RuntimeError, AssertionError) as error:
        raise RunFailed(f"the stand-in for starVLA could not be grafted: {error}") from error
    return Tree(
        checkout=project.patched,
        pristine=project.plain,
        python=python.absolute(),
        why=why,
        maker=[str(python.absolute()), "-m", "toy_world"],
        code=[STANDIN],
        path=str(STANDIN),
        mixture="toy_next",
        patch=4,
        preload=StarVLAProject.preload,
    )


def make_materials(tree: Tree, folder: Path) -> None:
    """Makes model and data in `folder`, unless they are there from the same code.

    Raises RunFailed.
    """
    trees.make_once(tree.maker, tree.code, tree.path, folder, OFFLINE)
