"""HSA's switches as fields of LLaMA-Factory's ModelArguments, and what they cannot be combined with."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..extras.misc import has_tokenized_data

if TYPE_CHECKING:
    from ..hparams import DataArguments, FinetuningArguments, ModelArguments


POLICIES = ("distance", "hierarchical")
BACKENDS = ("auto", "sdpa", "flex")


@dataclass
class HSAArguments:
    r"""Arguments pertaining to hierarchical semantic attention."""

    use_hsa: bool = field(
        default=False,
        metadata={"help": "Bias attention by the semantic type of the message that a key token belongs to (SFT only)."},
    )
    hsa_policy: Literal["distance", "hierarchical"] = field(
        default="distance",
        metadata={
            "help": (
                "`distance` biases by type and distance; `hierarchical` also hides NOISE keys "
                "from GLOBAL_CONDITION and LANDMARK queries."
            )
        },
    )
    hsa_lambda_landmark: float = field(
        default=0.001,
        metadata={"help": "Subtracted from a LANDMARK key's attention score for each token of distance."},
    )
    hsa_lambda_noise: float = field(
        default=0.5,
        metadata={"help": "Subtracted from a NOISE key's attention score for each token of distance."},
    )
    hsa_window: int = field(
        default=50,
        metadata={"help": "Greatest distance in tokens at which a NOISE key is seen; it is masked beyond."},
    )
    hsa_backend: Literal["auto", "sdpa", "flex"] = field(
        default="auto",
        metadata={"help": "`sdpa`: additive bias; `flex`: FlexAttention; `auto`: flex on a CUDA device, else sdpa."},
    )


def check_hsa_values(model_args: "HSAArguments") -> None:
    """Raise ValueError unless the policy, backend, slopes and window are usable."""
    if model_args.hsa_policy not in POLICIES:
        raise ValueError(f"`hsa_policy` must be one of {', '.join(POLICIES)}, got {model_args.hsa_policy!r}.")

    if model_args.hsa_backend not in BACKENDS:
        raise ValueError(f"`hsa_backend` must be one of {', '.join(BACKENDS)}, got {model_args.hsa_backend!r}.")

    for name in ("hsa_lambda_landmark", "hsa_lambda_noise"):
        value = getattr(model_args, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {value!r}.")

    if isinstance(model_args.hsa_window, bool) or not isinstance(model_args.hsa_window, int):
        raise ValueError(f"`hsa_window` must be a whole number of tokens, got {model_args.hsa_window!r}.")

    if model_args.hsa_window < 0:
        raise ValueError(f"`hsa_window` must be at least 0, got {model_args.hsa_window}.")


def resolve_hsa(
    model_args: "ModelArguments", data_args: "DataArguments", finetuning_args: "FinetuningArguments"
) -> None:
    """Check HSA's switches before anything is loaded and tell the data side about them.

    Sets ``data_args.semantic_ids``, which is part of the processor that ``datasets`` fingerprints: runs with and
    without HSA never share a cache entry.

    Raises:
        ValueError: a value out of range, or a combination in which HSA would not reach the attention.
    """
    data_args.semantic_ids = model_args.use_hsa
    if not model_args.use_hsa:
        return

    check_hsa_values(model_args)
    refusals = [
        (finetuning_args.stage != "sft", f"stage `{finetuning_args.stage}`", "HSA trains with `stage: sft` only"),
        (str(model_args.flash_attn) in ("fa2", "fa3"), f"flash_attn `{model_args.flash_attn}`",
         "FlashAttention takes no bias; set `flash_attn: auto` (a GPU then uses FlexAttention)"),
        (model_args.use_unsloth, "`use_unsloth`", "Unsloth replaces the attention; turn it off"),
        (model_args.shift_attn, "`shift_attn`", "LongLoRA replaces the attention; turn it off"),
        (model_args.mixture_of_depths is not None, "`mixture_of_depths`",
         "MoD drops tokens inside the model, so the types no longer match; turn it off"),
        (model_args.use_kt, "`use_kt`", "KTransformers brings its own attention; turn it off"),
        (getattr(finetuning_args, "use_mca", False), "Megatron (`USE_MCA`)", "it brings its own attention"),
        (getattr(finetuning_args, "use_asft_loss", False), "`use_asft_loss`",
         "its reference pass does not receive the semantic types"),
        (str(model_args.infer_backend) != "huggingface", f"infer_backend `{model_args.infer_backend}`",
         "only `infer_backend: huggingface` runs HSA"),
    ]  # fmt: skip
    for refused, what, remedy in refusals:
        if refused:
            raise ValueError(f"`use_hsa` cannot be combined with {what}: {remedy}.")

    if data_args.tokenized_path is not None and has_tokenized_data(data_args.tokenized_path):
        _check_tokenized(data_args.tokenized_path)


def _check_tokenized(path: str) -> None:
    """Refuse data on disk that was tokenized without the switch, prompts to generate from included."""
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(path)
    splits = data if isinstance(data, DatasetDict) else {"train": data}
    untyped = [name for name, split in splits.items() if "semantic_ids" not in split.column_names]
    if untyped:
        raise ValueError(
            f"`use_hsa` is on, but the data in {path} ({', '.join(untyped)}) has no `semantic_ids`: it was tokenized "
            "with `use_hsa: false`. Remove it and tokenize it again."
        )
