"""The attention implementation ``hsa``, registered with transformers, and the state of the forward pass it serves.

A model's text backbone announces each forward pass (:class:`TypedForward`). While it runs, transformers asks the
registered mask function once for the mask of all its layers; mask and bias are built there, in one tensor, and every
layer receives it as its ordinary ``attention_mask``. The attention function is then plain SDPA.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Optional

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    packed_sequence_mask_function,
    padding_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)

from .bias import HSARule, additive_mask
from .flex import BlockMask, flex_forward, flex_mask
from .types import SemanticType

ATTENTION_NAME = "hsa"
FLEX_BLOCK = 128

_CURRENT: ContextVar[Optional["TypedForward"]] = ContextVar("hsa_forward", default=None)


@dataclass
class TypedForward:
    """One forward pass of a text backbone whose tokens have types.

    Attributes:
        types: int64 [B, K], semantic types of all keys so far, cached ones included.
        segments: int64 [B, K] or None: number of the packed sequence of each key, 0 for padding.
        start: index of the first query among the keys.
        flex: whether FlexAttention may serve this pass.
        used: set once a mask has been built; a pass without any is an error.
    """

    rule: HSARule
    types: torch.Tensor
    segments: torch.Tensor | None
    start: int
    length: int
    flex: bool
    used: bool = False

    def key_types(self, first: int, keys: int) -> torch.Tensor:
        """Types [B, keys] from key ``first`` on; keys that do not exist yet (static caches) are GLOBAL_CONDITION."""
        missing = max(first + keys - self.types.shape[1], 0)
        padded = torch.nn.functional.pad(self.types, (0, missing), value=int(SemanticType.GLOBAL_CONDITION))
        return padded[:, first : first + keys]

    def query_types(self) -> torch.Tensor:
        return self.types[:, self.start : self.start + self.length]

    def same_segment(self, keys: int) -> torch.Tensor | None:
        """bool [B, 1, Q, K]: query and key lie in one packed sequence."""
        if self.segments is None:
            return None

        query = self.segments[:, self.start : self.start + self.length, None]
        key = self.segments[:, None, :keys]
        return ((query == key) & (key != 0))[:, None]

    def additive(self, allowed: torch.Tensor, first: int, dtype: torch.dtype) -> torch.Tensor:
        """Mask and bias [B, 1, Q, K] over what the model itself allows (bool, broadcastable)."""
        self.used = True
        batch, keys = self.types.shape[0], allowed.shape[-1]
        same = self.same_segment(keys)
        allowed = allowed if same is None else allowed & same
        return additive_mask(
            allowed.expand(batch, -1, self.length, keys),
            self.key_types(first, keys),
            self.query_types(),
            self.rule,
            self.start - first,
            dtype,
        )


def enter(forward: TypedForward | None) -> Token:
    """Announce a pass (None: one without types); returns what :func:`leave` needs."""
    return _CURRENT.set(forward)


def leave(token: Token) -> None:
    _CURRENT.reset(token)


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that attention runs in: autocast's, where it is on."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)

    return dtype


def hsa_mask(batch_size: int, kv_length: int, kv_offset: int = 0, **kwargs: Any) -> Any:
    """Mask function in transformers' mask interface: mask and bias of a typed pass, else the plain SDPA mask.

    Returns an additive mask [B, 1, Q, K] in the model's dtype, a BlockMask where FlexAttention serves the pass, or for
    a pass without types what :func:`transformers.masking_utils.sdpa_mask` returns.
    """
    forward = _CURRENT.get()
    if forward is None:
        return sdpa_mask(batch_size=batch_size, kv_length=kv_length, kv_offset=kv_offset, **kwargs)

    whole_prompt = kv_offset == 0 and kv_length == forward.length and forward.length >= FLEX_BLOCK
    if forward.flex and whole_prompt and not kwargs.get("use_vmap", False):
        forward.used = True
        allowed = kwargs.get("mask_function", causal_mask_function)
        padding = prepare_padding_mask(kwargs.get("attention_mask"), kv_length, kv_offset)
        if padding is not None:
            allowed = and_masks(allowed, padding_mask_function(padding))

        if forward.segments is not None:
            allowed = and_masks(allowed, packed_sequence_mask_function(forward.segments))

        return flex_mask(allowed, forward.key_types(0, kv_length), forward.query_types(), forward.rule, forward.start)

    plain = {**kwargs, "allow_is_causal_skip": False}
    allowed = sdpa_mask(batch_size=batch_size, kv_length=kv_length, kv_offset=kv_offset, **plain)
    dtype = compute_dtype(kwargs["dtype"], allowed.device)
    return forward.additive(allowed, int(kv_offset), dtype)


def hsa_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' attention interface: SDPA (or FlexAttention) under the shared mask.

    Raises:
        ValueError: a layer that asks for score soft-capping or attention sinks, which SDPA would silently leave out.
    """
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"HSA does not support `{name}` attention ({type(module).__name__}): set `use_hsa: false`."
            )

    if isinstance(attention_mask, BlockMask):
        return flex_forward(module, query, key, value, attention_mask, **kwargs)

    if attention_mask is not None and attention_mask.is_floating_point():
        dtype = compute_dtype(query.dtype, query.device)
        if attention_mask.dtype != dtype:  # a float32 minimum would become -inf in a smaller dtype
            lowest = max(torch.finfo(dtype).min, torch.finfo(attention_mask.dtype).min)
            attention_mask = attention_mask.clamp(min=lowest).to(dtype)

    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def register() -> None:
    """Make ``hsa`` known to transformers."""
    AttentionInterface.register(ATTENTION_NAME, hsa_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, hsa_mask)
