"""Trains a tiny Qwen3-MoE on three data sets whose order evaluations decide, with activation probes, natively.

    python -m runners infodyn-llamafactory [FOLDER] [--steps 480] [--router gaussian]

Needs `make llamafactory`. Nothing is downloaded: model, tokenizer and data are made in FOLDER (by default below the
place for runs), and FOLDER/train.yaml is what `llamafactory-cli train` reads. The run lies in FOLDER/run:
`schedule.jsonl` there has every choice with its reason and every evaluation, `probes/` the activations, `log.txt` what
was printed. To resume a stopped run, run the same command again: it goes on from the last checkpoint, to the same
weights.
`python -m runners analyze-oid --run-dir FOLDER/run` follows, in the environment of `make infodyn`; without one it is
named and left out.
Exit codes: 0 done, 1 the training failed, 2 bad options or no environment, 130 interrupted, else the analysis's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from look import words
from runners import places, table
from runners.digests import Digests, checkout_state, write_whole
from runners.processes import Busy, sole
from runners.progress import View
from runners.stages import Engine, Stage
from runners.supervise.checkpoints import found, last_good, quarantine
from runners.supervise.command import families, recognise
from runners.versions import versions_of

NAME = "infodyn_llamafactory"
CHECKOUT = table.ROOT / "upstreams" / "LLaMA-Factory"
ANALYST = table.interpreter("infodyn")
CLI = Path(sys.executable).parent / "llamafactory-cli"
SIZE = 256 << 20
"""Bytes that model, checkpoint, probes and analysis take at most."""
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


def training(home: Path, options: argparse.Namespace, environment: Mapping[str, str], engine: Engine) -> Stage:
    """The training as a stage in `home`/run, what it needs being written first; a stopped one goes on."""
    write_data(home / "data", options.seed)
    write_model(home / "model", options.seed)
    config, run = home / "train.yaml", home / "run"
    write_whole(config, json.dumps(settings(home, options), indent=2))
    added = {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT / "src"), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [str(CLI), "train", str(config)]
    return Stage(
        name="train",
        folder=run,
        command=command,
        outputs=[run / "schedule.jsonl", run / "train_results.json"],
        inputs={"configuration": config, "model": home / "model", "data": home / "data"},
        options={"checkout": checkout_state(CHECKOUT, engine.digests), **versions_of(sys.executable, NEEDED)},
        environment=added,
        resume=lambda: going_on(command, home, added, engine.say),
        metrics=["trainer_log.jsonl"],
        total=options.steps,
    )


def going_on(
    command: Sequence[str], home: Path, environment: Mapping[str, str], say: Callable[[str], None]
) -> list[str] | None:
    """The command that goes on from the last whole checkpoint, None where there is none.

    The Trainer and the schedule restore everything: weights, choices and probes come out as in one go.
    """
    known = recognise(command, home, environment, families())
    good = last_good(known, say)
    if good is None:
        return None
    for item in found(known):
        if item.step > good.step:
            # The Trainer keeps only the latest, and would take the damaged one for it.
            quarantine(item)
    return list(known.resumed(good).words)


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


def parser_of() -> argparse.ArgumentParser:
    parser = table.parser(NAME, __doc__)
    parser.add_argument("folder", nargs="?", help="where everything lies, as --work")
    parser.add_argument("--steps", type=int, default=480, help="optimizer steps at most (default 480)")
    parser.add_argument("--chunk-steps", type=int, default=20, help="steps on one task before the next choice")
    parser.add_argument("--policy", default="progress", choices=("progress", "learning", "need"))
    parser.add_argument("--router", default="linear", choices=("linear", "gaussian"))
    parser.add_argument("--seed", type=int, default=7)
    places.add_options(parser, NAME, data=False, hub=False)
    words.add_option(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of()
    options = parser.parse_args(arguments)
    if options.folder and options.work:
        parser.error("FOLDER and --work name the same place: give one")
    if min(options.steps, options.chunk_steps) < 1:
        parser.error("--steps and --chunk-steps must be at least 1")
    if not (CHECKOUT / "src" / "llamafactory" / "infodyn").is_dir():
        print(f"{CHECKOUT} is not grafted: run `python apply.py LLaMA-Factory`", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} has no {', '.join(missing)}: leave --here out, and it runs with "
            f"{table.interpreter('LLaMA-Factory')}, which `make llamafactory` builds",
            file=sys.stderr,
        )
        return 2
    options.work = options.folder or options.work
    try:
        here = places.resolve(options, NAME)
        home = here.work.resolve()
        places.refuse_below(here, {"--work": SIZE})
        places.need(home, SIZE, "the run")
        places.claim(home)
    except places.Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with sole(home) as lock, View(home.name, lang=options.lang) as view:
            engine = Engine(Digests(home / "digests.json"), lock=lock, view=view)
            if not engine.run(training(home, options, here.environment(), engine)).good:
                return 1
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again, it goes on from the last checkpoint", file=sys.stderr)
        return 130
    show(home / "run" / "schedule.jsonl")
    probed = sorted((home / "run" / "probes").rglob("*.pt.gz"))
    print(f"{len(probed)} probe files in {home / 'run' / 'probes'}")
    if not probed:
        print("no analysis: all tasks were grokked before the first evaluation that is probed; try fewer --chunk-steps")
        return 0
    analysis = table.command("analyze-oid", "--run-dir", home / "run", python=ANALYST)
    if not ANALYST.exists():
        print(f"no analysis: {ANALYST} is not there; `make infodyn`, then {' '.join(analysis)}")
        return 0
    return subprocess.run([*analysis, "--top-n-experts", "3", "--lang", options.lang], check=False).returncode
