"""Facts for the chapter on starVLA as the demo gathers them, made up: four stages of six steps, two decisions."""

from __future__ import annotations

import base64
from typing import Any

from demo.charts import png

DIFF = """diff --git a/starVLA/training/train_starvla.py b/starVLA/training/train_starvla.py
--- a/starVLA/training/train_starvla.py
+++ b/starVLA/training/train_starvla.py
@@ -1,2 +1,4 @@
+from starVLA.sagr.trainer import step_metrics as sagr_metrics
     return {
+        **sagr_metrics(self, "<b>"),
"""
STAGES = {
    "alignment": ({"w_align": 1.0}, ["action_model", "world_predictor"]),
    "dynamics": ({"w_dyn": 1.0}, ["action_model", "fusion_module"]),
    "imitation": ({"w_fm": 1.0, "w_dyn": 0.2}, ["qwen_vl_interface"]),
    "correction": ({"w_fm": 1.0, "w_reg": 0.0}, ["geometry_encoder"]),
}
LOSSES = [3.0, 2.5, 2.0, 1.0, 0.75, 0.5]


def image(shade: int, width: int = 4, height: int = 2) -> str:
    return base64.b64encode(png([[(shade, 0, 0, 255)] * width] * height)).decode("ascii")


def stage(name: str) -> dict[str, Any]:
    weights, frozen = STAGES[name]
    rows = [{"step": step, "stage": name, "loss/total": loss} for step, loss in enumerate(LOSSES, 1)]
    return {
        "name": name,
        "says": f"what {name} does <now>",
        "frozen": frozen,
        "weights": weights,
        "options": [f"--framework.sagr.stage={name}"],
        "seconds": 5.0,
        "metrics": [{**row, "debug/sagr/mse_dyn": 0.125} for row in rows],
    }


def decision(rrr: float, decided: str) -> dict[str, Any]:
    return {"step": 2, "rrr": rrr, "residual_norm": 0.5, "threshold": 2.5, "restarts_left": 1, "decision": decided}


def make(real: bool) -> dict[str, Any]:
    looks = {"grid": [8, 8], "uniform": 1 / 64}
    debug = {
        "timing/perception_ms": 20.5,
        "geo/energy_trace": [0.04, 0.03],
        "geo/drift_action_cos_trace": [0.25, -0.5],
    }
    run = {"loss": ["0x1.8p+0", "0x1.4p+0"], "weights": ["aa", "cc"]}
    return {
        "real": real,
        "why": "" if real else "upstreams/starVLA is not there",
        "commit": "61ea14279a22739316f9c1ca74c18d535247fe05",
        "diff": DIFF,
        "overlays": [{"path": "starVLA/sagr/flow.py", "text": "a = 1\nb = 2 < 3\n"}],
        "off": {"upstream": run, "grafted": {**run}},
        "stages": [stage(name) for name in STAGES],
        "policy": {
            "seen": image(10),
            "attention": [
                {"instruction": "reach the <red> block", "largest": 0.25, "image": image(20), **looks},
                {"instruction": "reach the blue block", "largest": 0.5, "image": image(30), **looks},
            ],
            "executed": 2,
            "eta": 1.0,
            "step": "line_search",
            "guidance": {
                "energy": {"unguided": 0.04, "guided": 0.015},
                "moved": 0.375,
                "drift_norm": [1.5, 0.75],
                "velocity_norm": [3.0, 2.0],
                "debug": debug,
            },
            "decisions": {"as it came": decision(0.5, "continue"), "shifted": decision(7.0, "restart")},
        },
        "versions": {"torch": "2.13.0+cpu"},
        "seconds": 42.0,
    }
