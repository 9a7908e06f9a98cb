"""Facts for the chapter on openvla as the demo gathers them, made up: one layer of six directions, ten steps."""

from __future__ import annotations

from typing import Any

DIFF = """diff --git a/vla-scripts/finetune.py b/vla-scripts/finetune.py
--- a/vla-scripts/finetune.py
+++ b/vla-scripts/finetune.py
@@ -1,2 +1,4 @@
+from prismatic.gradient_surgery import attach
     vla = DDP(vla)
+    surgery = attach(vla, "<b>")
"""
VULNERABILITIES = [0.004, 0.001, 0.032, 0.002, 0.0005, 0.008]
"""By index of the singular value: the most vulnerable direction is not the one of the largest variance."""
ORDER = [2, 5, 0, 3, 1, 4]


def trace() -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: norms at every step, of which half is left, and a drift at every fifth."""
    rows: list[dict[str, Any]] = []
    for step in range(11):
        norms = {"g": 2.0, "gf": 0.8, "gp": 0.6, "gn": 1.732, "g_after": 1.0}
        row: dict[str, Any] = {"step": step, "beta": 0.5 - step / 40, "gamma": 0.1, "norms": {"1": norms}}
        rows.append(row if step % 5 else {**row, "mean_drift": step / 8})
    return rows


def make(real: bool) -> dict[str, Any]:
    layer = {"fragile": 1, "plastic": 2, "order": ORDER, "vulnerabilities": VULNERABILITIES, "members": [0, 1]}
    names = ("probe", "icsm/vulnerability", "train/baseline/seed0", "train/method/seed0")
    return {
        "real": real,
        "why": "" if real else "upstreams/openvla is not there",
        "commit": "c8f03f48af692657d3060c19588038c7220e9af9",
        "diff": DIFF,
        "overlays": [{"path": "research/surgery.py", "text": "a = 1\nb = 2 < 3\n"}],
        "icsm": {"layers": {"1": layer}, "versions": {"torch": "2.13.0+cpu"}},
        "trace": trace(),
        "losses": {"baseline": [[0, 13.75], [10, 5.375]], "method": [[0, 13.75], [10, 5.25]]},
        "stages": [{"name": name, "command": f"python {name}", "seconds": 12.0} for name in names],
        "report": "openvla-report.html",
    }
