"""HSA on FlexAttention: the same mask and bias as functions of an entry's indices, without any S x S tensor."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations import flex_attention as transformers_flex
from transformers.masking_utils import add_offsets_to_mask_function, create_block_mask
from transformers.utils import is_torch_flex_attn_available

from .bias import HSARule
from .types import SemanticType

if is_torch_flex_attn_available():
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
else:  # torch < 2.5: the additive mask serves every device
    BlockMask = type(None)

MaskMod = Callable[[Any, Any, Any, Any], Any]


def slopes(key_types: torch.Tensor, rule: HSARule) -> torch.Tensor:
    """Bias per token of distance for each key, float32 [B, K]."""
    table = torch.tensor([0.0, -rule.lambda_landmark, -rule.lambda_noise], device=key_types.device)
    return table[key_types]


def hsa_mask_mod(
    allowed: MaskMod, key_types: torch.Tensor, query_types: torch.Tensor, rule: HSARule, start: int
) -> MaskMod:
    """Which keys a query sees; indices are absolute. A query always sees itself, so no row is empty."""
    noise_type = int(SemanticType.NOISE)

    def mask_mod(batch: Any, head: Any, query: Any, key: Any) -> Any:
        is_noise = key_types[batch, key] == noise_type
        sees = ~is_noise | ((query - key).abs() <= rule.window)
        if rule.hides_noise:
            sees = sees & (~is_noise | (query_types[batch, query - start] == noise_type))

        return (allowed(batch, head, query, key) & sees) | (query == key)

    return mask_mod


def hsa_score_mod(key_slopes: torch.Tensor, start: int) -> Callable[..., Any]:
    """Score plus bias; the query's index counts from ``start``."""

    def score_mod(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return score + key_slopes[batch, key] * (query + start - key).abs()

    return score_mod


def flex_mask(
    allowed: MaskMod,
    key_types: torch.Tensor,
    query_types: torch.Tensor,
    rule: HSARule,
    start: int,
) -> "BlockMask":
    """A BlockMask that carries its score function, for :func:`flex_forward`.

    Args:
        allowed: mask function of the model's own mask, over absolute indices.
        key_types: int64 [B, K]; query_types: int64 [B, Q]; start: absolute index of the first query.
    """
    device = key_types.device
    mask_mod = hsa_mask_mod(allowed, key_types, query_types, rule, start)
    block_mask = create_block_mask(
        mask_mod=add_offsets_to_mask_function(mask_mod, start, 0),
        B=key_types.shape[0],
        H=None,
        Q_LEN=query_types.shape[1],
        KV_LEN=key_types.shape[1],
        device=device,
        _compile=device.type == "cuda",
    )
    block_mask.hsa_score_mod = hsa_score_mod(slopes(key_types, rule), start)
    return block_mask


def flex_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: "BlockMask",
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [B, H, Q, D] and key, value [B, H_kv, K, D]; returns [B, Q, H, D].

    Compiled on CUDA. On a CPU it runs eagerly and has no backward.
    """
    if dropout > 0.0:
        raise ValueError(
            "FlexAttention has no dropout: set the model's `attention_dropout` to 0, or hsa_backend: sdpa."
        )

    options = {
        "score_mod": block_mask.hsa_score_mod,
        "block_mask": block_mask,
        "enable_gqa": query.shape[1] != key.shape[1],
        "scale": scaling,
    }
    if query.device.type == "cuda":
        output = transformers_flex.compile_friendly_flex_attention(
            query, key, value, training=module.training, **options
        )
    else:
        output = flex_attention(query, key, value, **options)

    return output.transpose(1, 2).contiguous(), None
