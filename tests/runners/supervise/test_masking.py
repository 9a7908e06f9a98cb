"""What a command line must not show."""

from __future__ import annotations

import pytest

from runners.supervise import masking
from runners.supervise.masking import hidden, hidden_in, masked


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


@pytest.mark.parametrize(("text", "shown"), [
    ("token hf_" + "a1" * 10 + " is used", "token *** is used"),
    ("{'hub_token': 'abcdef', 'lr': 1}", "{'hub_token': '***', 'lr': 1}"),
    ("api_key=abc, next", "api_key=***, next"),
    ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ("eos_token='<|im_end|>' max_new_tokens: 64", "eos_token='<|im_end|>' max_new_tokens: 64"),
    ("https://user:pass@mirror/x and /a:b@c", "https://***@mirror/x and /a:b@c"),
    ("github ghp_" + "Ab1" * 12, "github ***"),
])  # fmt: skip
def test_a_text(text: str, shown: str) -> None:
    assert hidden(text) == shown


def test_values_that_were_seen_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_values", set())
    masking.learn(["env", "HF_TOKEN=first-value", "train", "--token", "auto"], {"X_SECRET": "other-value", "HOME": "/root/x"})
    assert hidden_in({"why": "first-value!", "lines": ["other-value", 3], "set": {"A": "auto /root/x"}}) == {
        "why": "***!", "lines": ["***", 3], "set": {"A": "auto /root/x"}}  # fmt: skip
