"""The switches as real arguments: defaults, help, values, and what is refused before anything is loaded."""

import pytest
import tiny

tiny.require()

from llamafactory.hparams import DataArguments, ModelArguments, get_infer_args, get_train_args  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoTokenizer,
    HfArgumentParser,
)


def arguments(tmp_path, **changes):
    """Parsed arguments of a run on a model that does not exist: nothing may be loaded to find a wrong switch."""
    return get_train_args(tiny.settings(tmp_path / "no_model", tmp_path / "no_data", tmp_path / "out", **changes))


def test_off_by_default_and_documented():
    model_args, data_args = ModelArguments(model_name_or_path="x"), DataArguments()
    assert model_args.use_hsa is False
    assert data_args.use_feedback is False
    assert data_args.semantic_ids is False
    text = HfArgumentParser([ModelArguments, DataArguments]).format_help()
    for name in ("hsa_policy", "hsa_lambda_landmark", "hsa_lambda_noise", "hsa_window", "hsa_backend", "use_feedback"):
        assert f"--{name}" in text
    assert "--semantic_ids" not in text


def test_on_reaches_model_data_and_copies(tmp_path):
    model_args, data_args, *_ = arguments(tmp_path, use_hsa=True, use_feedback=True, add_special_tokens="<a>,<b>")
    assert data_args.semantic_ids is True
    assert model_args.add_special_tokens == ["<a>", "<b>", "<|feedback|>"]
    copied = ModelArguments.copyfrom(model_args, add_special_tokens=None)
    assert copied.use_hsa is True


def test_command_line_flags_work(tmp_path, monkeypatch):
    command = ["llamafactory-cli", "--stage", "sft", "--model_name_or_path", "x", "--output_dir", str(tmp_path)]
    command += ["--use_hsa", "--hsa_policy", "hierarchical", "--hsa_window", "7", "--use_feedback", "true"]
    monkeypatch.setattr("sys.argv", command)
    model_args, data_args, *_ = get_train_args()
    assert (model_args.use_hsa, model_args.hsa_policy, model_args.hsa_window) == (True, "hierarchical", 7)
    assert data_args.use_feedback is True


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hsa_policy": "far"}, "hsa_policy"),
        ({"hsa_backend": "triton"}, "hsa_backend"),
        ({"hsa_lambda_noise": -0.1}, "hsa_lambda_noise"),
        ({"hsa_lambda_landmark": float("nan")}, "hsa_lambda_landmark"),
        ({"hsa_lambda_landmark": "much"}, "hsa_lambda_landmark"),
        ({"hsa_window": -1}, "hsa_window"),
        ({"hsa_window": 2.5}, "hsa_window"),
        ({"stage": "dpo"}, "stage `dpo`"),
        ({"flash_attn": "fa2"}, "flash_attn: auto"),
        ({"flash_attn": "fa3"}, "flash_attn: auto"),
        ({"shift_attn": True}, "shift_attn"),
        ({"use_unsloth": True}, "use_unsloth"),
        ({"mixture_of_depths": "convert"}, "mixture_of_depths"),
        ({"use_asft_loss": True}, "use_asft_loss"),
    ],
)
def test_hsa_refusals(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        arguments(tmp_path, use_hsa=True, **changes)


def test_hsa_values_do_not_matter_while_it_is_off(tmp_path):
    assert arguments(tmp_path, hsa_window=-1, flash_attn="fa2")[0].use_hsa is False


def test_inference_backends_that_cannot_run_hsa_are_refused(tmp_path):
    given = {"model_name_or_path": str(tmp_path), "template": "default", "use_hsa": True}
    with pytest.raises(ValueError, match="infer_backend: huggingface"):
        get_infer_args(given | {"infer_backend": "vllm"})
    assert get_infer_args(given)[0].use_hsa is True


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stage": "dpo"}, "needs `stage: sft`"),
        ({"split_special_tokens": True}, "split_special_tokens"),
        ({"feedback_token": " x"}, "without space"),
        ({"feedback_token": ""}, "without space"),
        ({"use_unsloth": True}, "Unsloth"),
    ],
)
def test_feedback_refusals(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        arguments(tmp_path, use_feedback=True, **changes)


def test_feedback_on_a_quantized_model_needs_a_row_for_the_token(tmp_path, text_model):
    given = {"use_feedback": True, "quantization_bit": 4}
    get_train_args(tiny.settings(text_model, tmp_path, tmp_path / "out", **given))  # its vocabulary is padded
    config = AutoConfig.from_pretrained(text_model)
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    config.vocab_size = len(tokenizer)
    for part in (config, tokenizer):
        part.save_pretrained(tmp_path / "full")
    with pytest.raises(ValueError, match="no row left"):
        get_train_args(tiny.settings(tmp_path / "full", tmp_path, tmp_path / "out", **given))


def test_feedback_and_described_tokens(tmp_path):
    described = tmp_path / "tokens.yaml"
    described.write_text('"<a>": a thing\n', encoding="utf-8")
    given = {"use_feedback": True, "new_special_tokens_config": str(described)}
    with pytest.raises(ValueError, match="one to one"):
        arguments(tmp_path, **given)
    described.write_text('"<a>": a thing\n"<|feedback|>": what the user said\n', encoding="utf-8")
    assert arguments(tmp_path, **given)[0].add_special_tokens == ["<a>", "<|feedback|>"]
