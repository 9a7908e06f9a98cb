"""What the feedback switch needs and what it cannot be combined with."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..extras.misc import has_tokenized_data, try_download_model_from_other_hub

if TYPE_CHECKING:
    from ..hparams import DataArguments, FinetuningArguments, ModelArguments


def resolve_feedback(
    model_args: "ModelArguments", data_args: "DataArguments", finetuning_args: "FinetuningArguments"
) -> None:
    """Check the switch before anything is loaded, and have LLaMA-Factory add the token as a special one.

    Raises:
        ValueError: a combination in which the mask could not be applied.
    """
    if not data_args.use_feedback:
        return

    token = data_args.feedback_token
    if finetuning_args.stage != "sft":
        raise ValueError(f"`use_feedback` needs `stage: sft`, got `{finetuning_args.stage}`.")

    if not isinstance(token, str) or not token or token != token.strip():
        raise ValueError(f"`feedback_token` must be a token without space around it, got {token!r}.")

    if model_args.split_special_tokens:
        raise ValueError("`use_feedback` cannot be combined with `split_special_tokens`: it would split the token.")

    if getattr(finetuning_args, "use_mca", False) or model_args.use_unsloth:
        raise ValueError("`use_feedback` cannot be combined with Megatron or Unsloth: they do not resize embeddings.")

    special = list(model_args.add_special_tokens or [])
    if token not in special:
        if model_args.new_special_tokens_config is not None:
            raise ValueError(
                f"Add {token!r} with a description to `{model_args.new_special_tokens_config}`: the tokens and their "
                "descriptions must match one to one."
            )

        model_args.add_special_tokens = [*special, token]

    if model_args.quantization_bit is not None and _outgrows_embeddings(model_args):
        raise ValueError(
            f"`use_feedback` cannot add {token!r} to this quantized model: its embeddings have no row left for it and "
            "cannot be resized. Add the token to the unquantized model and save that first, or train without "
            "`quantization_bit`."
        )

    if data_args.tokenized_path is not None and has_tokenized_data(data_args.tokenized_path):
        _check_tokenized(model_args, data_args)


def _from_hub(model_args: "ModelArguments") -> dict[str, Any]:
    """What the model's parts are loaded with, from the hub that LLaMA-Factory is set to."""
    model_args.model_name_or_path = try_download_model_from_other_hub(model_args)
    return {
        "pretrained_model_name_or_path": model_args.model_name_or_path,
        "trust_remote_code": model_args.trust_remote_code,
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.hf_hub_token,
    }


def _tokenizer(model_args: "ModelArguments") -> Any:
    """The tokenizer with every token that LLaMA-Factory is going to add."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(use_fast=model_args.use_fast_tokenizer, **_from_hub(model_args))
    tokenizer.add_tokens(list(model_args.add_tokens or []))
    tokenizer.add_tokens(list(model_args.add_special_tokens or []), special_tokens=True)
    return tokenizer


def _outgrows_embeddings(model_args: "ModelArguments") -> bool:
    """Whether the embeddings must grow; many models have rows to spare."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(**_from_hub(model_args))
    return len(_tokenizer(model_args)) > config.get_text_config().vocab_size


def _check_tokenized(model_args: "ModelArguments", data_args: "DataArguments") -> None:
    """Refuse data on disk that was tokenized without the switch: no token in it, or labels before the token.

    A packed row holds several samples; they are told apart by ``position_ids``, which start again with each.
    """
    import numpy as np
    from datasets import DatasetDict, load_from_disk

    from ..extras.constants import IGNORE_INDEX

    token_id = _tokenizer(model_args).convert_tokens_to_ids(data_args.feedback_token)
    remedy = (
        f"Remove {data_args.tokenized_path} and tokenize it again with `use_feedback: true`; if the data truly holds "
        "no feedback, turn the switch off."
    )
    data = load_from_disk(data_args.tokenized_path)
    splits = list(data.values()) if isinstance(data, DatasetDict) else [data]
    # A split made to generate from has prompts beside answers of other lengths, and nothing to mask.
    trained = [split for split in splits if all(len(row["input_ids"]) == len(row["labels"]) for row in split)]
    found = not trained
    for split in trained:
        for row in split:
            ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
            if token_id not in ids:
                continue

            found = True
            positions = row.get("position_ids")
            bounds = [0, len(ids)] if positions is None else [*np.flatnonzero(np.asarray(positions) == 0), len(ids)]
            for start, end in pairwise(bounds):
                hits = np.flatnonzero(ids[start:end] == token_id)
                if len(hits) and (labels[start : start + hits[0] + 1] != IGNORE_INDEX).any():
                    raise ValueError(f"Labels before {data_args.feedback_token!r} are not masked on disk. {remedy}")

    if not found:
        raise ValueError(f"No sample on disk holds {data_args.feedback_token!r} as one token. {remedy}")
