"""Facts for the chapter on information dynamics as the demo gathers them, made up: four choices, two probed epochs."""

from __future__ import annotations

from typing import Any

TASKS = ("echo", "reverse", "sort")
CHOICES = (
    ("sort", "cold", "never trained; 2 more such tasks", []),
    ("sort", "score", "first by progress: echo 0.1, <sort> 0.5", []),
    ("echo", "floor", "not trained for 6 choices, the floor is 6", []),
    ("echo", "review", "sort is grokked; of the other grokked tasks this has the lowest PI, 0.5", ["sort"]),
)
ACCURACIES = {"echo": (0.25, 0.5, 0.75, 0.875), "reverse": (0.125,) * 4, "sort": (0.5, 0.75, 1.0, 0.625)}
MODULE = "model.layers.1.mlp.experts"


def evaluation(place: int, accuracy: float) -> dict[str, Any]:
    return {"step": 20 * (place + 1), "avg_accuracy": accuracy, "avg_pi": accuracy / 2}


def svg(words: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>{words}</text></svg>'


def pair(epoch: str, first: str, second: str, **more: Any) -> dict[str, Any]:
    value = {"value": 0.25, "low": 0.125, "high": 0.375, "unit": "nats"}
    return {
        "epoch": epoch,
        "i": f"{MODULE}.{first}",
        "j": f"{MODULE}.{second}",
        "target": "model.layers.1",
        "rows": "256",
        "singular": False,
        "problem": "",
        "values": {"Syn": value, "Red": {**value, "value": -0.5, "low": -0.75, "high": -0.25}},
        **more,
    }


def make(analysed: bool = True) -> dict[str, Any]:
    maps = {epoch: {kind: svg(f"{kind} {epoch}") for kind in ("Syn", "Red")} for epoch in ("2", "4")}
    pairs = [
        pair("2", "0", "1", values={}, problem="too few common samples: <9>"),
        pair("4", "0", "1"),
        pair("4", "0", "2", singular=True),
    ]
    oid = {
        task: {"page": f"infodyn/work/run/oid_plots/experts.{task}/report.html", "pairs": pairs, "maps": maps}
        for task in TASKS
    }
    return {
        "commit": "c7c7c7c7",
        "proven": True,
        "choices": [
            {"number": n, "previous": None, "task": task, "kind": kind, "reason": why, "grokked": known, "step": 20 * n}
            for n, (task, kind, why, known) in enumerate(CHOICES)
        ],
        "evaluations": {
            task: [evaluation(place, accuracy) for place, accuracy in enumerate(found)]
            for task, found in ACCURACIES.items()
        },
        "counts": {
            task: {"2": {MODULE: {"0": 5, "1": 5, "10": 10}}, "4": {MODULE: {"10": 1, "0": 3, "1": 0}}}
            for task in reversed(TASKS)
        },
        "oid": oid if analysed else {},
        "off": {name: {"loss": ["0x1.8p+0", "0x1.4p+0"], "weights": ["cc"]} for name in ("upstream", "grafted")},
        "command": "python -m runners infodyn-llamafactory work --steps 80",
        "seconds": 61.6,
        "versions": {"omegaid": "0.2.5"},
    }
