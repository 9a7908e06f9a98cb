"""A vision-language model, all of whose layers the flow-matching head attends to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from deployment.model_server.tools.image_tools import to_pil_preserve
from starVLA.model.framework.base_framework import baseframework
from starVLA.model.framework.share_tools import merge_framework_config, populate_layerwise_dit_cfg
from starVLA.model.modules.action_model.LayerwiseFM_ActionHeader import get_action_model
from starVLA.model.modules.vlm import get_vlm_model
from starVLA.model.tools import FRAMEWORK_REGISTRY
from starVLA.training.trainer_utils.trainer_tools import resize_images


def _vlm() -> dict[str, Any]:
    return {
        "base_vlm": "./playground/Pretrained_models/Qwen2.5-VL-toy",
        "attn_implementation": "sdpa",
        "vl_hidden_dim": 64,
        "num_vl_layers": 4,
    }


def _head() -> dict[str, Any]:
    return {
        "action_model_type": "LayerwiseFM",
        "action_dim": 7,
        "state_dim": 7,
        "action_horizon": 16,
        "repeated_diffusion_steps": 2,
        "num_inference_timesteps": 4,
        "add_pos_embed": True,
        "max_seq_len": 64,
        "num_target_vision_tokens": 4,
        "noise_beta_alpha": 1.5,
        "noise_beta_beta": 1.0,
        "noise_s": 0.999,
        "num_timestep_buckets": 1000,
        "diffusion_model_cfg": {"dropout": 0.0, "interleave_self_attention": True, "attention_head_dim": 16},
    }


@dataclass
class QwenPIDefaultConfig:
    name: str = "QwenPI"
    qwenvl: dict = field(default_factory=_vlm)
    action_model: dict = field(default_factory=_head)


@FRAMEWORK_REGISTRY.register("QwenFM")
@FRAMEWORK_REGISTRY.register("QwenPI")
class Qwen_PI(baseframework):
    def __init__(
        self,
        config: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__()
        self.config = merge_framework_config(QwenPIDefaultConfig, config)
        self.qwen_vl_interface = get_vlm_model(config=self.config)
        text = self.qwen_vl_interface.model.config.text_config
        self.config.framework.qwenvl.vl_hidden_dim = text.hidden_size
        self.config.framework.qwenvl.num_vl_layers = text.num_hidden_layers
        populate_layerwise_dit_cfg(self.config, dit_hidden_dim=text.hidden_size, num_dit_layers=text.num_hidden_layers)
        self.action_model = get_action_model(config=self.config)
        self.action_horizon = int(self.config.framework.action_model.action_horizon)

    def _encode_vl_hidden_states(self, batch_images: list, instructions: list[str]) -> tuple:
        """A tensor [B, L, width] for each layer, and the attention mask [B, L]."""
        qwen_inputs = self.qwen_vl_interface.build_qwenvl_inputs(images=batch_images, instructions=instructions)
        outputs = self.qwen_vl_interface(**qwen_inputs, output_hidden_states=True, return_dict=True)
        layers = len(self.action_model.model.transformer_blocks)
        return list(outputs.hidden_states[-layers:]), qwen_inputs.get("attention_mask", None)

    def forward(
        self,
        examples: list[dict] | None = None,
        **kwargs,
    ) -> dict:
        """Examples with ``image`` (pictures), ``lang``, ``action`` [T, A] and perhaps ``state`` [1, Ds]."""
        vl_embs_list, mask = self._encode_vl_hidden_states(
            [example["image"] for example in examples], [example["lang"] for example in examples]
        )
        like, times = vl_embs_list[-1], 2
        actions = torch.tensor(np.array([example["action"] for example in examples])).to(like)
        state = None
        if "state" in examples[0]:
            state = torch.tensor(np.array([example["state"] for example in examples])).to(like).repeat(times, 1, 1)
        action_loss = self.action_model(
            [hidden.repeat(times, 1, 1) for hidden in vl_embs_list],
            actions[:, -self.action_horizon :].repeat(times, 1, 1),
            state,
            encoder_attention_mask=None if mask is None else mask.repeat(times, 1).bool(),
        )
        return {"action_loss": action_loss}

    @torch.inference_mode()
    def predict_action(
        self,
        examples: list[dict] | None = None,
        **kwargs: str,
    ) -> dict:
        """``normalized_actions`` [B, H, A] of examples with ``image``, ``lang`` and perhaps ``state``."""
        if type(examples) is not list:
            examples = [examples]
        batch_images = [to_pil_preserve(example["image"]) for example in examples]
        size = getattr(self.config.datasets.vla_data, "obs_image_size", None)
        if size:
            batch_images = resize_images(batch_images, target_size=size)
        vl_embs_list, mask = self._encode_vl_hidden_states(batch_images, [example["lang"] for example in examples])
        state = None
        if "state" in examples[0]:
            state = torch.from_numpy(np.array([example["state"] for example in examples])).to(vl_embs_list[-1])
        pred_actions = self.action_model.predict_action(
            vl_embs_list, state, encoder_attention_mask=None if mask is None else mask.bool()
        )
        return {"normalized_actions": pred_actions.detach().cpu().numpy()}
