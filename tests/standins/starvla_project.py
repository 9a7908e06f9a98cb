"""The stand-in for starVLA, grafted with the real packs; see grafted.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.standins.grafted import REPOSITORY, GraftedProject, Ran, packs_of

__all__ = ["OVERLAY", "REPOSITORY", "STANDIN", "Ran", "StarVLAProject", "packs"]

STANDIN = REPOSITORY / "tests" / "standins" / "starVLA"
OVERLAY = REPOSITORY / "overlays" / "starVLA"
TRAIN = "starVLA/training/train_starvla.py"


def packs() -> list[str]:
    """The packs for starVLA that this repository has."""
    return packs_of("starVLA")


class StarVLAProject(GraftedProject):
    upstream = "starVLA"
    license = "MIT"
    preload = (
        *("torch", "transformers", "transformers.models.llama.modeling_llama", "accelerate", "omegaconf", "pandas"),
        *("pyarrow.parquet", "PIL.Image", "tqdm", "tokenizers"),
    )

    def train(self, config: Path, *arguments: str, cwd: Path, tree: Path | None = None, **options: Any) -> Ran:
        """The trainer with a YAML and dotted arguments, as ``PYTHONPATH=. python`` from the tree would run it."""
        tree = tree or self.patched
        env = {**options.pop("env", {}), "PYTHONPATH": str(tree)}
        return self.run(TRAIN, "--config_yaml", str(config), *arguments, cwd=cwd, tree=tree, env=env, **options)
