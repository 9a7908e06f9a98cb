"""Makes what the demo trains on: pictures, two data sets, a tokenizer, and two tiny models with random weights.

    python demo/materials.py FOLDER      (in the environment of LLaMA-Factory)

Nothing is downloaded. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from samples import COLOURS, errands, look, pictures, sights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
ROLES = ("user\n", "assistant\n", "system\n")
HIDDEN = 64
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
}


def draw(folder: Path) -> None:
    """Writes the pictures, 56 x 56 pixels (four image tokens after merging), one shape each."""
    folder.mkdir(parents=True, exist_ok=True)
    outlines: dict[str, Any] = {
        "circle": lambda pen, fill: pen.ellipse((10, 10, 46, 46), fill=fill),
        "square": lambda pen, fill: pen.rectangle((11, 11, 45, 45), fill=fill),
        "triangle": lambda pen, fill: pen.polygon(((28, 9), (48, 46), (8, 46)), fill=fill),
    }
    for index in range(pictures()):
        shape, colour = look(index)
        image = Image.new("RGB", (56, 56), (244, 244, 240))
        outlines[shape](ImageDraw.Draw(image), COLOURS[colour])
        image.save(folder / f"{index}.png")


def write_data(folder: Path) -> list[str]:
    """Writes `errands.json`, `sights.json` and `dataset_info.json`; returns every text in them."""
    data = {"errands": errands(120), "sights": sights(96)}
    info = {
        "errands": {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}},
        "sights": {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}},
    }
    for name, rows in data.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        info[name]["file_name"] = f"{name}.json"  # type: ignore[assignment]
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    return [turn["value"] for rows in data.values() for row in rows for turn in row["conversations"]]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 640 entries, trained on `texts`, with Qwen's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=SPECIAL + VISION,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A text with a special token's characters would teach the tokenizer to spell that token in pieces.
    clean = [text.replace("<|feedback|>", "").replace("<image>", "") for text in texts]
    bpe.train_from_iterator([*clean, *ROLES * len(clean)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def make_text_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A Qwen3 with two layers of width 64 and random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        **TEXT,
        vocab_size=_vocabulary(tokenizer),
        head_dim=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_image_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A Qwen2.5-VL with two text layers and two vision layers of width 64 and 32, random weights, and its processor."""
    torch.manual_seed(0)
    token = tokenizer.convert_tokens_to_ids
    text = dict(
        TEXT,
        vocab_size=_vocabulary(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    )
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    for kind in ("image", "video"):
        setattr(tokenizer, f"{kind}_token", f"<|{kind}_pad|>")
        setattr(tokenizer, f"{kind}_token_id", token(f"<|{kind}_pad|>"))
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=14, min_pixels=28 * 28, max_pixels=28 * 28 * 16),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> int:
    """The embedding's rows: the tokenizer's length rounded up to a multiple of 64, as real models do."""
    return (len(tokenizer) + 63) // 64 * 64


def main() -> None:
    folder = Path(sys.argv[1])
    draw(folder / "data" / "pictures")
    tokenizer = make_tokenizer(write_data(folder / "data"))
    make_text_model(folder / "models" / "qwen3", tokenizer)
    make_image_model(folder / "models" / "qwen2_5_vl", tokenizer)
    print(f"{folder}: two data sets, {pictures()} pictures, a tokenizer of {len(tokenizer)} entries, two models")


if __name__ == "__main__":
    main()
