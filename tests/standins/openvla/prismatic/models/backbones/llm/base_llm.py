"""The language model on the path that trains with FSDP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM

from prismatic.models.backbones.llm.prompting import PromptBuilder, PurePromptBuilder


class LLMBackbone(nn.Module):
    identifier, half_precision_dtype = "llama2-7b-pure", torch.bfloat16

    def __init__(self, llm: LlamaForCausalLM, tokenizer: Any) -> None:
        super().__init__()
        self.llm, self.tokenizer = llm, tokenizer
        self.embed_dim = llm.config.hidden_size

    @property
    def prompt_builder_fn(self) -> type[PromptBuilder]:
        return PurePromptBuilder

    @property
    def transformer_layer_cls(self) -> type[nn.Module]:
        return LlamaDecoderLayer

    @property
    def last_layer_finetune_modules(self) -> tuple[nn.Module, ...]:
        return (self.llm.model.embed_tokens, self.llm.model.layers[-1], self.llm.lm_head)

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def get_fsdp_wrapping_policy(self) -> Callable[..., Any]:
        return partial(transformer_auto_wrap_policy, transformer_layer_cls={self.transformer_layer_cls})
