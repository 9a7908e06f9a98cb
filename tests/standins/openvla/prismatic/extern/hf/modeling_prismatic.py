"""A vision backbone of one layer a picture, a projector and a Llama, under the names that openvla gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .configuration_prismatic import OpenVLAConfig, PrismaticConfig

IGNORE_INDEX = -100
EMPTY_TOKEN = 29871  # Llama's token of a lone space, which training prompts have after "Out:"
PATCH = 8


class PatchEmbed(nn.Module):
    def __init__(self, image_size: int, width: int) -> None:
        super().__init__()
        self.num_patches = (image_size // PATCH) ** 2
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Featurizer(nn.Module):
    """Pixels [B, 3, H, H] to patch features [B, P, width]; each patch knows its place."""

    def __init__(self, image_size: int, width: int) -> None:
        super().__init__()
        self.embed_dim = width
        self.patch_embed = PatchEmbed(image_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, width))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(pixels) + self.pos_embed
        return patches + self.fc2(F.gelu(self.fc1(patches)))


class PrismaticVisionBackbone(nn.Module):
    """Two featurizers side by side, on pixels stacked along the channels: [B, 6, H, H] to [B, P, embed_dim]."""

    def __init__(self, image_sizes: list[int], width: int = 32) -> None:
        super().__init__()
        self.featurizer = Featurizer(image_sizes[0], width)
        self.fused_featurizer = Featurizer(image_sizes[1], width)
        self.embed_dim = 2 * width

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        first, second = pixel_values.split([3, 3], dim=1)
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=2)


class PrismaticProjector(nn.Module):
    def __init__(self, vision_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(vision_dim, llm_dim), nn.Linear(llm_dim, llm_dim)
        self.act_fn1 = nn.GELU()

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act_fn1(self.fc1(patches)))


@dataclass
class PrismaticCausalLMOutputWithPast(ModelOutput):
    """What a forward pass returns.

    ``logits`` [B, 1 + P + T - 1, V]: with ``labels``, zero wherever no label is, since 32064 columns at every position
    would be most of a small model's time.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    projector_features: torch.Tensor | None = None


def with_patches(text: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Patches after the first position: [B, T, ...] and [B, P, ...] to [B, 1 + P + T - 1, ...]."""
    return torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)


def multimodal_forward(
    llm: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    patches: torch.Tensor,
    labels: torch.Tensor | None,
    output_hidden_states: bool | None = None,
) -> PrismaticCausalLMOutputWithPast:
    """The language model on patches [B, P, D] and text [B, T]; the loss is where labels are."""
    filled = patches.shape[:2]
    embeddings = with_patches(llm.get_input_embeddings()(input_ids), patches)
    mask = None
    if attention_mask is not None:
        mask = with_patches(attention_mask, attention_mask.new_ones(filled))
    decoded = llm.model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        use_cache=False,
        output_hidden_states=output_hidden_states,
        return_dict=True,
    )
    hidden, loss = decoded.last_hidden_state, None
    if labels is None:
        logits = llm.lm_head(hidden).float()
    else:
        shifted = with_patches(labels, labels.new_full(filled, IGNORE_INDEX)).to(hidden.device)
        targets = F.pad(shifted[:, 1:], (0, 1), value=IGNORE_INDEX)
        supervised = targets != IGNORE_INDEX
        predicted = llm.lm_head(hidden[supervised]).float()
        loss = F.cross_entropy(predicted, targets[supervised])
        logits = predicted.new_zeros(*hidden.shape[:2], predicted.shape[-1])
        logits[supervised] = predicted.detach()
    return PrismaticCausalLMOutputWithPast(
        loss=loss, logits=logits, hidden_states=decoded.hidden_states, projector_features=patches
    )


class PrismaticPreTrainedModel(PreTrainedModel):
    config_class = PrismaticConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PrismaticProjector"]  # noqa: RUF012 - the base class annotates it
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        """Only what the Llama inside does not initialise itself; a linear layer's bias starts at zero."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Featurizer):
            nn.init.normal_(module.pos_embed)


class PrismaticForConditionalGeneration(PrismaticPreTrainedModel):
    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__(config)
        self.vision_backbone = PrismaticVisionBackbone(config.image_sizes)
        self.projector = PrismaticProjector(self.vision_backbone.embed_dim, config.text_config.hidden_size)
        self.language_model = LlamaForCausalLM(config.text_config)
        self.vocab_size, self.pad_token_id = config.text_config.vocab_size, config.pad_token_id
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """The language model's matter: by the outer configuration's default, its head would become its embedding."""
        self.language_model.tie_weights(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_projector_features: bool | None = None,
        return_dict: bool | None = None,
    ) -> PrismaticCausalLMOutputWithPast:
        if pixel_values is None or input_ids is None:
            raise ValueError("the stand-in needs both `input_ids` and `pixel_values`")
        patches = self.projector(self.vision_backbone(pixel_values))
        return multimodal_forward(self.language_model, input_ids, attention_mask, patches, labels, output_hidden_states)


class OpenVLAForActionPrediction(PrismaticForConditionalGeneration):
    config_class = OpenVLAConfig

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__(config)
        self.norm_stats = config.norm_stats
        self.bins = np.linspace(-1, 1, config.n_action_bins)
        self.bin_centers = (self.bins[:-1] + self.bins[1:]) / 2.0
        self.vocab_size = config.text_config.vocab_size - config.pad_to_multiple_of

    @torch.no_grad()
    def generate_tokens(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, count: int) -> torch.Tensor:
        """The ``count`` greedily chosen next tokens [B, count] of prompts [B, T] that have no padding."""
        patches, length = self.projector(self.vision_backbone(pixel_values)), input_ids.shape[1]
        for _ in range(count):
            embeddings = with_patches(self.get_input_embeddings()(input_ids), patches)
            hidden = self.language_model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
            chosen = self.language_model.lm_head(hidden[:, -1]).argmax(dim=-1, keepdim=True)
            input_ids = torch.cat([input_ids, chosen], dim=1)
        return input_ids[:, length:]

    def predict_action(
        self, input_ids: torch.Tensor | None = None, unnorm_key: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """The action [7] that a prompt [1, T] with its ``pixel_values`` [1, 6, H, H] asks for, un-normalised."""
        if not torch.all(input_ids[:, -1] == EMPTY_TOKEN):
            input_ids = torch.cat([input_ids, input_ids.new_full((len(input_ids), 1), EMPTY_TOKEN)], dim=1)
        tokens = self.generate_tokens(input_ids, kwargs["pixel_values"], self.get_action_dim(unnorm_key))
        return self.actions_of(tokens, unnorm_key)[0]

    def actions_of(self, tokens: torch.Tensor, unnorm_key: str | None = None) -> np.ndarray:
        """Action tokens [B, 7] as actions [B, 7], un-normalised by a data set's quantiles."""
        bins = np.clip(self.vocab_size - tokens.cpu().numpy() - 1, 0, len(self.bin_centers) - 1)
        actions, stats = self.bin_centers[bins], self.get_action_stats(unnorm_key)
        low, high = np.array(stats["q01"]), np.array(stats["q99"])
        mask = stats.get("mask", np.ones_like(low, dtype=bool))
        return np.where(mask, 0.5 * (actions + 1) * (high - low) + low, actions)

    @staticmethod
    def _check_unnorm_key(norm_stats: dict[str, Any], unnorm_key: str | None) -> str:
        key = next(iter(norm_stats)) if unnorm_key is None and len(norm_stats) == 1 else unnorm_key
        assert key in norm_stats, f"`unnorm_key` must be one of {list(norm_stats)}, not {unnorm_key!r}"
        return key

    def get_action_dim(self, unnorm_key: str | None = None) -> int:
        return len(self.get_action_stats(unnorm_key)["q01"])

    def get_action_stats(self, unnorm_key: str | None = None) -> dict[str, Any]:
        return self.norm_stats[self._check_unnorm_key(self.norm_stats, unnorm_key)]["action"]
