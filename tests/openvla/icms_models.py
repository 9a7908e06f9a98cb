"""Small models for the tests of ICSM: a Llama in openvla's shape whose output is sharp, and one with a closed form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

PATCHES, HIDDEN, LAYERS, VOCABULARY = 3, 24, 4, 41


class Vision(nn.Module):
    """Pixels ``[B, 3, 6, 6]`` to P patches of HIDDEN numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.num_patches = PATCHES
        self.proj = nn.Linear(108 // PATCHES, HIDDEN)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels.flatten(1).view(len(pixels), PATCHES, -1))


class Tiny(nn.Module):
    """The shape of ``OpenVLAForActionPrediction``: patches behind BOS, then ``language_model``."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.vision_backbone, self.language_model = Vision(), language_model

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any, use_cache: bool | None = None) -> Any:
        text = self.language_model.get_input_embeddings()(input_ids)
        patches = self.vision_backbone(pixel_values)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], 1)
        mask = torch.cat([attention_mask[:, :1], attention_mask.new_ones(patches.shape[:2]), attention_mask[:, 1:]], 1)
        return self.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=use_cache)


def sharp_llama(seed: int = 0, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Tiny:
    """A random Llama with weights large enough that it attends and answers sharply, dropout included."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.3,
        pad_token_id=0,
        attn_implementation=attention,
    )
    model = Tiny(LlamaForCausalLM(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.0 if "embed_tokens" in name else 1.2 * parameter.shape[1] ** -0.5)
        model.language_model.lm_head.weight.mul_(2.0)
    return model.to(dtype)


class Average(nn.Module):
    """A block ``h_t + share * mean of h_0..h_t``: linear, and every token reaches every later one."""

    def __init__(self, share: float, as_tuple: bool) -> None:
        super().__init__()
        self.share, self.as_tuple = nn.Parameter(torch.tensor(share, dtype=torch.float64)), as_tuple

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        counts = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device).view(1, -1, 1)
        state = hidden_states + self.share * hidden_states.cumsum(1) / counts
        return (state, None) if self.as_tuple else state


class LinearLM(nn.Module):
    """Linear from the hidden state of any layer to the logits, with ``LlamaForCausalLM``'s names."""

    def __init__(self, shares: list[float], as_tuple: bool) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.model.layers = nn.ModuleList(Average(share, as_tuple) for share in shares)
        self.model.norm = nn.Identity()
        self.model.config = SimpleNamespace(hidden_size=HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, use_cache: Any = None) -> Any:
        state = inputs_embeds
        for block in self.model.layers:
            out = block(state, attention_mask=attention_mask)
            state = out[0] if isinstance(out, tuple) else out
        return SimpleNamespace(logits=self.lm_head(state))


def linear_model(as_tuple: bool = False, dtype: torch.dtype = torch.float64) -> Tiny:
    torch.manual_seed(3)
    return Tiny(LinearLM([0.7, 0.4, 0.9], as_tuple)).to(dtype)


def probe_batch(samples: int = 4, seed: int = 1, text: int = 9, vary: bool = True, first: int = 0) -> Any:
    """A right-padded batch; with ``vary`` prompts and instructions have different lengths."""
    from research.probe.hidden_and_mask import ProbeBatch

    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([text - (row % 3 if vary else 0) for row in range(samples)])
    attention = torch.arange(text) < lengths.unsqueeze(1)
    ids = torch.randint(3, VOCABULARY, (samples, text), generator=generator) * attention
    mask = torch.zeros(samples, PATCHES + text, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        mask[row, PATCHES + 2 : PATCHES + length - 2] = True
    pixels = torch.randn(samples, 3, 6, 6, generator=generator)
    names = [f"s{first + row}" for row in range(samples)]
    return ProbeBatch(ids, attention, pixels, mask, PATCHES + lengths - 1, names)


def random_directions(layer_rms: dict[int, float], k: int = 6, seed: int = 5) -> Any:
    """An orthonormal basis for each layer."""
    from research.icms.vulnerability import Directions

    generator = torch.Generator().manual_seed(seed)
    return {
        n: Directions(torch.linalg.qr(torch.randn(HIDDEN, k, generator=generator, dtype=torch.float64)).Q, rms)
        for n, rms in layer_rms.items()
    }
