"""Trains a tiny Qwen3-MoE on three data sets whose order evaluations decide, with activation probes, natively.

    .venvs/LLaMA-Factory/bin/python runners/infodyn_llamafactory.py FOLDER [--steps 480] [--router gaussian]

Nothing is downloaded: model, tokenizer and data are made in FOLDER, and FOLDER/train.yaml is what
`llamafactory-cli train` reads. The run lies in FOLDER/run: `schedule.jsonl` has every choice with its reason and every
evaluation, `probes/` the activations. `runners/analyze_oid.py --run-dir FOLDER/run` follows, in the environment of
`make infodyn`; without one it is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = ROOT / "upstreams" / "LLaMA-Factory"
ANALYST = ROOT / ".venvs" / "infodyn" / "bin" / "python"
NEEDED = ("torch", "transformers", "llamafactory")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TASKS = ("echo", "reverse", "sort")
ROWS = 400


def answer(task: str, letters: list[str]) -> list[str]:
    return {"echo": letters, "reverse": letters[::-1], "sort": sorted(letters)}[task]


def write_data(folder: Path, seed: int) -> None:
    """`<task>.json` and `dataset_info.json`: five letters, and the same letters as the task has them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for task in TASKS:
        rows = []
        for _ in range(ROWS):
            letters = draw.sample("abcdefgh", 5)
            rows.append(
                {"instruction": f"{task} {' '.join(letters)}", "input": "", "output": " ".join(answer(task, letters))}
            )
        (folder / f"{task}.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {task: {"file_name": f"{task}.json"} for task in TASKS}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


def write_model(folder: Path, seed: int) -> None:
    """A random Qwen3-MoE of two layers, width 64, eight experts of which two a token, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [*TASKS, "user\n", "assistant\n", *(f" {letter}" for letter in "abcdefgh")] * 8
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=48,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)


def probed_every(steps: int, chunk_steps: int) -> int:
    """Chunks from one probe file to the next: 4, or a quarter of a run that is short: it might end without."""
    return max(1, min(4, -(-steps // (4 * chunk_steps))))


def settings(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What train.yaml holds. JSON is YAML too, so the file needs no library to be written."""
    return {
        "model_name_or_path": str(home / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "template": "qwen3_nothink",
        "dataset": ",".join(TASKS),
        "dataset_dir": str(home / "data"),
        "cutoff_len": 64,
        "val_size": 0.2,
        "overwrite_cache": True,
        "cache_dir": str(home / "cache"),
        "output_dir": str(home / "run"),
        "overwrite_output_dir": True,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "learning_rate": 3.0e-3,
        "lr_scheduler_type": "constant",
        "max_steps": options.steps,
        "logging_steps": options.chunk_steps,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "report_to": "none",
        "seed": options.seed,
        "dynamic_schedule": True,
        "schedule": {
            "chunk_steps": options.chunk_steps,
            "policy": options.policy,
            "accuracy_threshold": 0.9,
            "pi_threshold": 0.4,
            "window": 2,
            "stability": 0.05,
            "when_all_grokked": "end",
        },
        "moe_router": options.router,
        "probes": {
            "probes": [
                {
                    "name": "experts",
                    "source_modules": ["**.layers.1.mlp.experts.?"],
                    "target_modules": ["**.layers.1"],
                }
            ],
            "validation_subset_size": 64,
            "save_every_n_epochs": probed_every(options.steps, options.chunk_steps),
        },
    }


def show(log: Path) -> None:
    """Prints every choice with its reason, and the last accuracy and PI of each task."""
    last: dict[str, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "choice" in entry:
            choice = entry["choice"]
            known = "  ".join(f"{t} {m['avg_accuracy']:.3f}/{m['avg_pi']:.3f}" for t, m in last.items())
            print(
                f"step {entry['step']:4}  {choice['task']:8} {choice['kind']:7} {known}\n           {choice['reason']}"
            )
        else:
            last[entry["task"]] = entry["metrics"]
    for task, metrics in last.items():
        print(f"{task:8} accuracy {metrics['avg_accuracy']:.3f}, PI {metrics['avg_pi']:.3f} at step {metrics['step']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where everything lies; its `run` is removed first")
    parser.add_argument("--steps", type=int, default=480, help="optimizer steps at most (default 480)")
    parser.add_argument("--chunk-steps", type=int, default=20, help="steps on one task before the next choice")
    parser.add_argument("--policy", default="progress", choices=("progress", "learning", "need"))
    parser.add_argument("--router", default="linear", choices=("linear", "gaussian"))
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if min(options.steps, options.chunk_steps) < 1:
        parser.error("--steps and --chunk-steps must be at least 1")
    if not (CHECKOUT / "src" / "llamafactory" / "infodyn").is_dir():
        print(f"{CHECKOUT} is not grafted: run `python apply.py LLaMA-Factory`", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} has no {', '.join(missing)}: run this with .venvs/LLaMA-Factory/bin/python, which "
            "`make demo` builds",
            file=sys.stderr,
        )
        return 2
    home = options.folder.resolve()
    shutil.rmtree(home / "run", ignore_errors=True)
    write_data(home / "data", options.seed)
    write_model(home / "model", options.seed)
    config = home / "train.yaml"
    config.write_text(json.dumps(settings(home, options), indent=2), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT / "src"), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    log = home / "train.log"
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "train", str(config)]
    print(f"{' '.join(command)}   (log: {log})", flush=True)
    with log.open("wb") as out:
        code = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(log.read_text(encoding="utf-8", errors="replace")[-4000:], file=sys.stderr)
        return code
    show(home / "run" / "schedule.jsonl")
    found = sorted((home / "run" / "probes").rglob("*.pt.gz"))
    print(f"{len(found)} probe files in {home / 'run' / 'probes'}")
    if not found:
        print("no analysis: all tasks were grokked before the first evaluation that is probed; try fewer --chunk-steps")
        return 0
    analysis = [str(ANALYST), str(ROOT / "runners" / "analyze_oid.py"), "--run-dir", str(home / "run")]
    if not ANALYST.exists():
        print(f"no analysis: {ANALYST} is not there; `make infodyn`, then {' '.join(analysis)}")
        return 0
    return subprocess.run([*analysis, "--top-n-experts", "3"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
