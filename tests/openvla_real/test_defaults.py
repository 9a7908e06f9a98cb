"""What this project says again of upstream's own defaults."""

from __future__ import annotations

import ast
from pathlib import Path

from runners.openvla_options import UPSTREAM_RATE


def test_the_runners_common_learning_rate_is_upstreams(grafted: Path) -> None:
    tree = ast.parse((grafted / "vla-scripts" / "finetune.py").read_text(encoding="utf-8"))
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "FinetuneConfig")
    fields = {node.target.id: node.value for node in config.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert ast.literal_eval(fields["learning_rate"]) == UPSTREAM_RATE  # type: ignore[arg-type]
