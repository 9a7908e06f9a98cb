"""Looks at one sample from inside the grafted LLaMA-Factory and prints what it saw as one JSON object, last line.

    python demo/inspect_sample.py RUN.yaml      (in the environment of LLaMA-Factory)

The sample goes through the upstream's own parser, tokenizer and data pipeline; the bias comes from the grafted module.
This is the one place of the demo that knows names inside the checkout.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import yaml

PACKAGES = ("torch", "transformers", "llamafactory", "peft", "trl", "accelerate", "datasets", "torchvision")


def first_sample(settings: dict[str, Any]) -> dict[str, Any]:
    """The first training sample under `settings`, unpacked: tokens, semantic_ids, labels, and labels without feedback.

    Both label rows come from one tokenizer, so they are of one length.
    """
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    plain = settings | {"neat_packing": False, "max_samples": 1, "preprocessing_num_workers": None}
    model_args, data_args, training_args, _, _ = get_train_args(dict(plain))
    module = load_tokenizer(model_args)
    tokenizer = module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)

    def row(arguments: Any) -> dict[str, Any]:
        found = get_dataset(template, model_args, arguments, training_args, stage="sft", **module)
        return dict(found["train_dataset"][0])

    on = row(data_args)
    _, data_args_off, *_ = get_train_args(plain | {"use_feedback": False})
    off = row(data_args_off)
    if off["input_ids"] != on["input_ids"]:
        raise RuntimeError("the sample has other tokens with feedback off: the two label rows cannot be compared")
    return {
        "tokens": [tokenizer.decode([token]) for token in on["input_ids"]],
        "semantic_ids": on["semantic_ids"],
        "labels": on["labels"],
        "labels_off": off["labels"],
    }


def biases(semantic_ids: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    """For each policy: its slopes and window, and the bias [S][S] of key j for query i, None where it is masked.

    Slopes and window are those of `settings`, else the method's defaults.
    """
    import torch
    from llamafactory.hsa.arguments import POLICIES, HSAArguments
    from llamafactory.hsa.bias import HSARule, additive_mask

    defaults = HSAArguments()

    def value(name: str) -> Any:
        return settings.get(name, getattr(defaults, name))

    landmark, noise, window = value("hsa_lambda_landmark"), value("hsa_lambda_noise"), value("hsa_window")
    slopes = {"landmark": landmark, "noise": noise, "window": window}
    types = torch.tensor([semantic_ids])
    size = types.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()[None, None]
    lowest = torch.finfo(torch.float32).min
    found = {}
    for policy in POLICIES:
        rule = HSARule(policy, landmark, noise, window)
        rows = additive_mask(causal, types, types, rule, 0, torch.float32)[0, 0].tolist()
        matrix = [[None if bias == lowest else round(bias, 6) for bias in row] for row in rows]
        found[policy] = {"slopes": slopes, "matrix": matrix, "used": policy == value("hsa_policy")}
    return found


def main() -> None:
    settings = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sample = first_sample(settings)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    found = {
        "sample": sample,
        "biases": biases(sample["semantic_ids"], settings),
        "versions": versions | {"python": platform.python_version()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
