"""What a command line must not show."""

from __future__ import annotations

import pytest

from runners.supervise.masking import masked


@pytest.mark.parametrize(("word", "shown"), [
    ("WANDB_API_KEY=abc", "WANDB_API_KEY=***"),
    ("hf_hub_token=abc", "hf_hub_token=***"),
    ("--hf-token=abc", "--hf-token=***"),
    ("trainer.secret=a=b", "trainer.secret=***"),
    ("hf_" + "a1" * 10, "***"),
    ("https://user:pass@mirror/x", "https://***@mirror/x"),
    ("--max_new_tokens=64", "--max_new_tokens=64"),
    ("tokenizer=fast", "tokenizer=fast"),
    ("--model_name_or_path=hf_models/tiny", "--model_name_or_path=hf_models/tiny"),
])  # fmt: skip
def test_a_word(word: str, shown: str) -> None:
    assert masked([word]) == [shown]


def test_the_word_behind_an_option() -> None:
    words = ["train", "--hf_token", "abc", "--tokenizer", "fast", "--api-key", "--flag"]
    assert masked(words) == ["train", "--hf_token", "***", "--tokenizer", "fast", "--api-key", "--flag"]
