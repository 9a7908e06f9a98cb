"""A tokenizer of Llama's layout, made here: 32000 pieces, the space at 29871, actions at the end, ``<PAD>`` 32000."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

SIZE, SPACE, EMPTY = 32000, "▁", 29871
PRINTABLE = [chr(code) for code in range(33, 127)]
WORDS = """
In What action should the robot take to reach grasp lift avoid turn push block ball slowly quickly left right
and red green blue yellow white black orange purple put bowl plate mug tray basket on onto in into open close drawer
pick up place it USER ASSISTANT chat between curious user assistant artificial intelligence gives helpful detailed
polite answers questions
"""  # one piece each, with the space before it


def make_tokenizer() -> Any:
    """A fast tokenizer: ``<s>`` first, whole words for what the toy world says, single characters for the rest."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    merges: dict[tuple[str, str], None] = {}
    for word in [*(SPACE + word for word in WORDS.split()), "Out"]:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    while len(vocabulary) < EMPTY:
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    for piece in [SPACE, *PRINTABLE]:
        vocabulary[piece] = len(vocabulary)
    while len(vocabulary) < SIZE:  # rare characters, so that an action is one token a dimension
        vocabulary[chr(0x4E00 + len(vocabulary) - EMPTY)] = len(vocabulary)
    made = Tokenizer(
        models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>")])
    made.add_special_tokens([AddedToken("<PAD>", normalized=False, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<PAD>",
        padding_side="right",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tokenizer(folder: Path) -> None:
    make_tokenizer().save_pretrained(folder)
