"""Facts for the report as the demo gathers them, made up: a short sample, two policies, four runs, a small diff."""

from __future__ import annotations

import math
from typing import Any

from demo.samples import errands

KINDS = {"GLOBAL_CONDITION": 0, "LANDMARK": 1, "KEY_EVENT": 1, "NOISE": 2, "PROCESS_NOISE": 2}
SLOPES = {"landmark": 0.001, "noise": 0.5, "window": 50}
DIFF = """diff --git a/src/loader.py b/src/loader.py
index 1111111..2222222 100644
--- a/src/loader.py
+++ b/src/loader.py
@@ -10,3 +10,4 @@ def load_model():
     model = build()
-    return wrap(model)
+    attach(model)  # <script>alert("x")</script>
+    return model
diff --git a/src/args.py b/src/args.py
index 3333333..4444444 100644
--- a/src/args.py
+++ b/src/args.py
@@ -1,2 +1,3 @@
 class Arguments:
+    use_hsa: bool = False
     name: str
"""


def decay(i: int, j: int, kind: int) -> float | None:
    """The bias of a key of type `kind` at j for a query at i, written down from the method's definition."""
    distance = i - j
    if distance < 0 or (kind == 2 and distance > 50):
        return None
    return -(0.0, 0.001, 0.5)[kind] * distance


def make() -> dict[str, Any]:
    tokens: list[str] = []
    types: list[int] = []
    labels: list[int] = []
    labels_off: list[int] = []
    row = errands(1)[0]
    turns = [{"from": "system", "value": row["system"], "semantic_type": "GLOBAL_CONDITION"}, *row["conversations"]]
    corrected = False
    for turn in turns:
        words = [word + " " for word in turn["value"].split()]
        words = ["<|im_start|>", turn["from"], "\n", *words, "<|im_end|>", "\n"]
        for place, word in enumerate(words):
            corrected = corrected or "<|feedback|>" in word
            answer = turn["from"] == "gpt" and 3 <= place < len(words) - 1
            tokens.append(word)
            types.append(KINDS[turn["semantic_type"]])
            labels_off.append(len(tokens) if answer else -100)
            labels.append(len(tokens) if answer and corrected else -100)
    size = len(tokens)
    matrix = [[decay(i, j, types[j]) for j in range(size)] for i in range(size)]
    strict = [
        [None if types[i] < 2 and types[j] == 2 else bias for j, bias in enumerate(line)]
        for i, line in enumerate(matrix)
    ]
    runs = {
        name: {
            "command": f".venvs/LLaMA-Factory/bin/llamafactory-cli train artifacts/demo/runs/{name}.yaml",
            "seconds": 12.0,
            "losses": [[step, end + (5.9 - end) * math.exp(-step / 15)] for step in range(2, 61, 2)],
        }
        for name, end in (("text-off", 0.38), ("text-on", 0.41), ("images-off", 0.24), ("images-on", 0.8))
    }
    return {
        "diff": DIFF,
        "overlays": [{"path": "src/hsa/bias.py", "text": '"""A < B & C."""\nx = 1\n'}],
        "runs": runs,
        "sample": {"tokens": tokens, "semantic_ids": types, "labels": labels, "labels_off": labels_off},
        "biases": {
            "distance": {"slopes": SLOPES, "matrix": matrix, "used": False},
            "hierarchical": {"slopes": SLOPES, "matrix": strict, "used": True},
        },
        "versions": {"torch": "2.13.0+cpu", "llamafactory": "0.9.5"},
        "upstreams": {"LLaMA-Factory": "applied", "openvla": "unreachable"},
        "pin": "v0.9.5 (7af909522a951e3ad9f022ea6f88b6755257eaa5)",
        "when": "2030-01-01 12:00",
    }
