"""A tiny Qwen3-MoE, three data sets of five letters each, and how LLaMA-Factory is to train the one on the others."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

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
