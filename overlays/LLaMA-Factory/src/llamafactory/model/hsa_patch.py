"""Put hierarchical semantic attention on a loaded model."""

from typing import TYPE_CHECKING, Any

import torch

from ..extras import logging
from ..hsa.arguments import check_hsa_values
from ..hsa.attention import ATTENTION_NAME, register
from ..hsa.bias import HSARule
from ..hsa.hooks import allow_types_in_generate, hook_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..hsa.arguments import HSAArguments


logger = logging.get_logger(__name__)

_PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def apply_hsa_patch(model: "torch.nn.Module", model_args: "HSAArguments", is_trainable: bool = False) -> None:
    """Select the attention implementation ``hsa`` for the text part of ``model``, in place. Off: nothing happens.

    The vision and audio towers keep theirs. The model may be wrapped by PEFT. A second call replaces the first.

    Args:
        model: what ``load_model`` is about to return.
        model_args: ``use_hsa``, ``hsa_policy``, the slopes, the window and ``hsa_backend``.
        is_trainable: whether it will be trained; only then are inputs without ``semantic_ids`` an error.

    Raises:
        ValueError: a switch out of range, or a model whose attention HSA cannot reach; says what to do.
    """
    if not model_args.use_hsa:
        return

    check_hsa_values(model_args)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = base.get_decoder()
    _refuse_unreachable(base, backbone)
    if model_args.hsa_backend == "flex" and is_trainable and not torch.cuda.is_available():
        raise ValueError("`hsa_backend: flex` cannot train without a CUDA device: set `hsa_backend: auto`.")

    register()
    base.set_attn_implementation(_implementations(base, backbone))
    if backbone.config._attn_implementation != ATTENTION_NAME:
        raise ValueError(f"{type(backbone).__name__} refuses another attention implementation: set `use_hsa: false`.")

    for handle in getattr(base, "hsa_handles", []):
        handle.remove()

    rule = HSARule(
        policy=model_args.hsa_policy,
        lambda_landmark=float(model_args.hsa_lambda_landmark),
        lambda_noise=float(model_args.hsa_lambda_noise),
        window=model_args.hsa_window,
    )
    base.hsa_rule = rule
    backend = model_args.hsa_backend
    if backend == "auto" and getattr(backbone.config, "attention_dropout", 0):
        backend = "sdpa"  # FlexAttention has no dropout
    base.hsa_handles = hook_backbone(backbone, rule, backend)
    if hasattr(type(base), "prepare_inputs_for_generation"):
        allow_types_in_generate(base)

    logger.info_rank0(f"Hierarchical semantic attention on {type(backbone).__name__}: {rule}.")
    if not is_trainable:
        logger.warning_rank0(
            "HSA acts where inputs come with `semantic_ids`. Without them (chat, API) every token is GLOBAL_CONDITION, "
            "which is plain attention."
        )


def _implementations(base: "PreTrainedModel", backbone: "PreTrainedModel") -> Any:
    """The argument for ``set_attn_implementation``: HSA for the text part, every other part as it is."""
    if base.config is backbone.config:
        return ATTENTION_NAME

    parts = {"": base.config._attn_implementation}
    for name in base.config.sub_configs:
        part = getattr(base.config, name, None)
        if part is not None:
            parts[name] = ATTENTION_NAME if part is backbone.config else part._attn_implementation

    return parts


def _refuse_unreachable(base: "PreTrainedModel", backbone: "PreTrainedModel") -> None:
    name = type(base).__name__
    remedy = "set `use_hsa: false`, or use a model that follows transformers' attention interface"
    config = backbone.config
    reasons = [
        (getattr(config, "is_encoder_decoder", False), "is an encoder-decoder model"),
        (config.model_type == "doge", "reads its mask as a yes or no, so a bias would hide keys"),
        (getattr(config, "attn_logit_softcapping", None) is not None, "soft-caps its scores, which SDPA cannot"),
        (
            not set(getattr(config, "layer_types", None) or []) <= _PLAIN_LAYERS,
            f"has layers without attention scores ({sorted(set(getattr(config, 'layer_types', None) or []))})",
        ),
        (not getattr(backbone, "_supports_attention_backend", False), "does not use transformers' attention interface"),
        (not getattr(backbone, "_supports_sdpa", False), "does not support SDPA attention"),
    ]
    for unreachable, reason in reasons:
        if unreachable:
            raise ValueError(f"HSA cannot be used with {name}: it {reason}; {remedy}.")

    if "flash" in str(config._attn_implementation):
        raise ValueError(
            f"HSA cannot be used with {config._attn_implementation}, which takes no bias: set `flash_attn: auto`."
        )
