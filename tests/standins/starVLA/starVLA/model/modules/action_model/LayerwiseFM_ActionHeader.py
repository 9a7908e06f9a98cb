"""Flow matching on action chunks: block i of the transformer attends to layer i of the vision-language model."""

from __future__ import annotations

from typing import Any

import torch
from starVLA.model.modules.action_model.flow_matching_head.cross_attention_dit import DiT, sinusoids
from torch import nn
from torch.distributions import Beta
from torch.nn import functional as F


class MLP(nn.Module):
    def __init__(self, input_dim: int, hidden_dim: int = 128, output_dim: int = 64) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(input_dim, hidden_dim), nn.Linear(hidden_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer2(F.relu(self.layer1(x)))


class ActionEncoder(nn.Module):
    """Actions [B, H, A] at times [B] to tokens [B, H, width]."""

    def __init__(self, action_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(action_dim, hidden_size), nn.Linear(2 * hidden_size, hidden_size)
        self.hidden_size = hidden_size

    def forward(self, actions: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        embedded = self.layer1(actions)
        times = sinusoids(timesteps, self.hidden_size).to(embedded.dtype)[:, None].expand_as(embedded)
        return self.layer2(F.silu(torch.cat([embedded, times], dim=-1)))


class LayerwiseFlowmatchingActionHead(nn.Module):
    def __init__(self, global_config: Any, **kwargs: Any) -> None:
        super().__init__()
        action_config = global_config.framework.action_model
        shape = dict(action_config.diffusion_model_cfg.items())
        self.input_embedding_dim = shape["input_embedding_dim"]
        self.model = DiT(**shape)
        self.action_dim = action_config.action_dim
        self.action_horizon = int(action_config.action_horizon)
        self.num_inference_timesteps = action_config.num_inference_timesteps
        width = self.input_embedding_dim
        self.state_encoder = MLP(action_config.state_dim, output_dim=width) if action_config.state_dim else None
        self.action_encoder = ActionEncoder(self.action_dim, width)
        self.action_decoder = MLP(width, output_dim=self.action_dim)
        self.future_tokens = nn.Embedding(action_config.num_target_vision_tokens, width)
        if action_config.add_pos_embed:
            self.position_embedding = nn.Embedding(action_config.max_seq_len, width)
        for table in (each for each in self.modules() if isinstance(each, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.02)
        self.beta_dist = Beta(action_config.noise_beta_alpha, action_config.noise_beta_beta)
        self.num_timestep_buckets = action_config.num_timestep_buckets
        self.config = action_config

    def sample_time(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """[B] in [0, 1): early times, where the noise is, are drawn most often."""
        noisy = self.beta_dist.sample([batch_size]).to(device, dtype=dtype)
        return ((self.config.noise_s - noisy) / self.config.noise_s).clamp(min=0)

    def _velocity(
        self, vl_embs_list: list, noisy: torch.Tensor, times: torch.Tensor, state: torch.Tensor | None, mask: Any
    ) -> torch.Tensor:
        """What the decoder says of every token, [B, tokens, A]; the actions are the last."""
        tokens = self.action_encoder(noisy, times)
        if self.config.add_pos_embed:
            tokens = tokens + self.position_embedding.weight[: tokens.shape[1]]
        parts = [self.future_tokens.weight.expand(len(noisy), -1, -1), tokens]
        if state is not None:
            parts.insert(0, self.state_encoder(state))
        hidden, temb = torch.cat(parts, dim=1), self.model.timestep_encoder(times)
        for layer, block in enumerate(self.model.transformer_blocks):
            hidden = block(
                hidden_states=hidden,
                encoder_hidden_states=vl_embs_list[layer],
                encoder_attention_mask=mask,
                temb=temb,
            )
        return self.action_decoder(hidden)

    def forward(
        self,
        vl_embs_list: list,
        actions: torch.Tensor,
        state: torch.Tensor = None,
        encoder_attention_mask=None,
    ):
        """The loss of the velocity. Context: a tensor [B, L, width] a block; actions [B, H, A]; state [B, 1, Ds]."""
        noise = torch.randn_like(actions)
        t = self.sample_time(len(actions), actions.device, actions.dtype)[:, None, None]
        noisy_trajectory = torch.lerp(noise, actions, t)
        velocity = actions - noise
        times = (t[:, 0, 0] * self.num_timestep_buckets).long()
        pred = self._velocity(vl_embs_list, noisy_trajectory, times, state, encoder_attention_mask)
        pred_actions = pred[:, -actions.shape[1] :]
        loss = F.mse_loss(pred_actions, velocity)
        return loss

    @torch.no_grad()
    def predict_action(
        self,
        vl_embs_list: list,
        state: torch.Tensor = None,
        encoder_attention_mask=None,
    ) -> torch.Tensor:
        """A chunk [B, H, A], integrated from noise by Euler's steps."""
        like = vl_embs_list[0]
        actions = torch.randn(len(like), self.action_horizon, self.action_dim, dtype=like.dtype, device=like.device)
        num_steps = self.num_inference_timesteps
        dt = 1.0 / num_steps
        for t in range(num_steps):
            times = torch.full((len(like),), int(t / num_steps * self.num_timestep_buckets), device=like.device)
            pred = self._velocity(vl_embs_list, actions, times, state, encoder_attention_mask)
            pred_velocity = pred[:, -self.action_horizon :]
            actions = actions + dt * pred_velocity
        return actions

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def get_action_model(config=None):
    return LayerwiseFlowmatchingActionHead(global_config=config)
