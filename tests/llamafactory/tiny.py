"""Small things to test on: a tokenizer, models of every family, conversations. All made here, nothing is downloaded."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = Path(os.environ.get("GRAFT_LLAMAFACTORY_SRC") or ROOT / "upstreams" / "LLaMA-Factory" / "src").resolve()
SPECIAL = [
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"],
    *["<|image_pad|>", "<|video_pad|>", "<think>", "</think>"],
]
TEXTS = [
    "Hello there, how are you? What is the capital of France? It is Paris.",
    "user assistant system observation Human: Assistant: USER: ASSISTANT: [INST] [/INST]\n",
    "Tell me a joke about the sea. The robot grasps the red cup and turns left at the door.",
]


def require(*modules: str) -> None:
    """Skip the calling test module, saying why, unless the patched checkout and ``modules`` can be imported."""
    if not (SRC / "llamafactory" / "hsa").is_dir():
        reason = f"no patched LLaMA-Factory at {SRC}: run `python apply.py LLaMA-Factory`"
        pytest.skip(reason, allow_module_level=True)
    for name in ("torch", "transformers", "peft", "trl", "datasets", *modules):
        pytest.importorskip(name, reason=f"{name} cannot be imported: run `make test`, which builds its environment")
    if importlib.util.find_spec("torchaudio") is None:  # imported at module level there, used for audio files only
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = stub
    if str(SRC) not in sys.path:
        sys.path.insert(0, str(SRC))


def tokenizer(padding_side: str = "right", extra: tuple[str, ...] = ()) -> Any:
    """A byte-level BPE tokenizer of about 350 tokens with the special tokens of Qwen."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(), eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side=padding_side
    )
    if extra:
        made.add_tokens(list(extra), special_tokens=True)
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return made


def _bpe() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return bpe


TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
VISION_TOKENS = {"image_token_id": 6, "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4}
TEXT_FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "mistral_sliding")
VISION_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def model(family: str, **changes: Any) -> Any:
    """A random model of a family, float32, in evaluation mode, the same one every time."""
    import torch
    import transformers as t

    torch.manual_seed(7)
    text = TEXT_CONFIG | changes
    if family == "llama":
        made = t.LlamaForCausalLM(t.LlamaConfig(**text))
    elif family == "qwen2":
        made = t.Qwen2ForCausalLM(t.Qwen2Config(**text))
    elif family == "qwen3":
        made = t.Qwen3ForCausalLM(t.Qwen3Config(**text, head_dim=16))
    elif family == "qwen3_moe":
        made = t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**text, **MOE, head_dim=16))
    elif family == "mistral_sliding":
        made = t.MistralForCausalLM(t.MistralConfig(**text, sliding_window=6))
    elif family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}
        config = t.Qwen2VLConfig(text_config=text | {"rope_parameters": MROPE}, vision_config=vision, **VISION_TOKENS)
        made = t.Qwen2VLForConditionalGeneration(config)
    elif family == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
        vision["fullatt_block_indexes"] = [1]
        config = t.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": MROPE}, vision_config=vision, **VISION_TOKENS
        )
        made = t.Qwen2_5_VLForConditionalGeneration(config)
    elif family == "qwen3_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        config = t.Qwen3VLConfig(
            text_config=text | {"rope_parameters": rope, "head_dim": 16}, vision_config=vision, **VISION_TOKENS
        )
        made = t.Qwen3VLForConditionalGeneration(config)
    else:
        raise ValueError(family)
    return made.eval()


def hsa_arguments(**changes: Any) -> Any:
    """HSA's switches, on, with slopes that a small model's scores notice."""
    from llamafactory.hsa.arguments import HSAArguments

    defaults = {"use_hsa": True, "hsa_lambda_landmark": 0.05, "hsa_lambda_noise": 0.5, "hsa_window": 3}
    return HSAArguments(**(defaults | changes))


def patched(family: str, trainable: bool = False, config: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A model of a family with HSA on it."""
    from llamafactory.model.hsa_patch import apply_hsa_patch

    made = model(family, **(config or {}))
    apply_hsa_patch(made, hsa_arguments(**changes), is_trainable=trainable)
    return made.train() if trainable else made


def save_text_model(folder: Path, family: str = "qwen3") -> Path:
    model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_vision_model(folder: Path, family: str = "qwen2_5_vl") -> Path:
    import transformers as t

    model(family).save_pretrained(folder)
    tok = tokenizer()
    for kind in ("image", "video"):
        setattr(tok, f"{kind}_token", f"<|{kind}_pad|>")
        setattr(tok, f"{kind}_token_id", tok.convert_tokens_to_ids(f"<|{kind}_pad|>"))
    patch = 16 if family == "qwen3_vl" else 14
    images = t.Qwen2VLImageProcessor(patch_size=patch, min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    kinds = {
        "qwen2_vl": (t.Qwen2VLProcessor, t.Qwen2VLVideoProcessor),
        "qwen2_5_vl": (t.Qwen2_5_VLProcessor, t.Qwen2VLVideoProcessor),
        "qwen3_vl": (t.Qwen3VLProcessor, t.Qwen3VLVideoProcessor),
    }
    processor, videos = kinds[family]
    processor(
        image_processor=images, tokenizer=tok, video_processor=videos(patch_size=patch), chat_template=tok.chat_template
    ).save_pretrained(folder)
    return folder


def conversations(
    count: int = 24, typed: bool = True, feedback: bool = True, image: bool = False
) -> list[dict[str, Any]]:
    """ShareGPT samples of two turns with a system message; types and feedback tokens in some of them."""
    rows = []
    for i in range(count):
        mark = "<|feedback|>" if feedback and i % 2 == 0 else ""
        turns: list[dict[str, Any]] = [
            {"from": "human", "value": f"{'<image>' if image else ''}What is the capital of France? {i}"},
            {"from": "gpt", "value": f"It is {'London' if mark else 'Paris'}."},
            {"from": "human", "value": f"{mark}Tell me a joke about the sea"},
            {"from": "gpt", "value": "The robot turns left at the door."},
        ]
        if typed:
            for turn, name in zip(turns, (None, "NOISE", "LANDMARK", "KEY_EVENT"), strict=True):
                turn["semantic_type"] = name
        rows.append({"conversations": turns, "system": "You are nice"})
        if image:
            rows[-1]["images"] = [f"i{i % 4}.png"]
    return rows


def write_data(folder: Path) -> Path:
    """A data folder: ``typed``, ``plain``, ``images`` and an alpaca set ``alpaca``."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(4):
        Image.new("RGB", (84, 56), (60 * i, 255 - 60 * i, 120)).save(folder / f"i{i}.png")
    alpaca = [{"instruction": f"Say {i}", "input": "", "output": "It is Paris."} for i in range(8)]
    sets = {
        "typed": conversations(),
        "plain": conversations(typed=False, feedback=False),
        "images": conversations(12, image=True),
        "alpaca": alpaca,
    }
    info: dict[str, Any] = {}
    for name, rows in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        columns = {"messages": "conversations", "system": "system"}
        columns |= {"images": "images"} if name == "images" else {}
        info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    info["alpaca"] = {"file_name": "alpaca.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


def settings(model_folder: Path, data_folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a 10-step native LoRA run."""
    return {
        "model_name_or_path": str(model_folder),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 4,
        "dataset": "plain",
        "dataset_dir": str(data_folder),
        "media_dir": str(data_folder),
        "template": "qwen3_nothink",
        "cutoff_len": 128,
        "output_dir": str(output),
        "overwrite_output_dir": True,
        "overwrite_cache": True,
        "max_steps": 10,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1.0e-3,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_steps": 10,
        "save_only_model": True,
    } | changes


@lru_cache(maxsize=1)
def stub_path() -> str:
    """A folder with an empty ``torchaudio`` for checkouts run as a command, where none is installed."""
    spec = importlib.util.find_spec("torchaudio")
    if spec is not None and spec.loader is not None:
        return ""
    folder = Path(tempfile.mkdtemp(prefix="graft-stub-"))
    (folder / "torchaudio").mkdir()
    (folder / "torchaudio" / "__init__.py").write_text("", encoding="utf-8")
    return str(folder)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def train(
    arguments: dict[str, Any], src: Path = SRC, processes: int = 1, command: list[str] | None = None
) -> list[float]:
    """Run ``llamafactory-cli train``, or ``command``, on a checkout in a process of its own; returns the losses."""
    import yaml

    output = Path(arguments["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    config = output.parent / f"{output.name}.yaml"
    config.write_text(yaml.safe_dump(arguments), encoding="utf-8")
    path = [str(src), stub_path(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in path if p), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [*(command or [sys.executable, "-m", "llamafactory.cli", "train"]), str(config)]
    if processes > 1:
        environment |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(processes), "MASTER_PORT": str(free_port())}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=output.parent)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-3000:]}\n{ran.stderr[-5000:]}"
    if not arguments.get("do_train"):
        return []
    log = (output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]
