"""QwenPI with SA-GR Flow: task tokens anchored in geometry, a world predictor, residual guidance and feedback tokens.

With `framework.sagr.geometry.backend: none` it is QwenPI: the same parameters, random numbers and results. The modules
are in `starVLA/sagr`; what is compared with what, and when, is in `starVLA/sagr/plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from deployment.model_server.tools.image_tools import to_pil_preserve
from starVLA.model.framework.share_tools import merge_framework_config
from starVLA.model.framework.VLM4A.QwenPI import Qwen_PI, QwenPIDefaultConfig
from starVLA.model.tools import FRAMEWORK_REGISTRY
from starVLA.sagr import batch
from starVLA.sagr.alignment import info_nce, pooled
from starVLA.sagr.config import defaults, feedback_defaults, read
from starVLA.sagr.feedback import from_outside
from starVLA.sagr.flow import FlowPass
from starVLA.sagr.guidance import Reference, ResidualGuidance
from starVLA.sagr.looking import look, words_of
from starVLA.sagr.losses import SagrLosses, Transition
from starVLA.sagr.metrics import Observer, TimedFlow, inference_metrics
from starVLA.sagr.modules import built, refuse_other_switches
from starVLA.sagr.plan import Plan, executed_counts
from starVLA.sagr.timing import Timer
from starVLA.training.trainer_utils.trainer_tools import resize_images
from torch import Tensor, nn

NEXT = "sagr.losses w_dyn, w_geo, w_reg need the next frame: use a data set of sagr.data.next_frame, or set all to 0"
PREVIOUS = (
    "action_model.enable_causal_feedback_token needs the chunk before: use a data set of sagr.data.next_frame, or "
    "switch it off"
)


@dataclass
class MapAnythingLlava3DPIDefaultConfig(QwenPIDefaultConfig):
    """QwenPI's defaults, and the method's, all off."""

    name: str = "MapAnythingLlava3DPI"
    action_model: dict = field(default_factory=lambda: {**QwenPIDefaultConfig().action_model, **feedback_defaults()})
    sagr: dict = field(default_factory=defaults)


@FRAMEWORK_REGISTRY.register("MapAnythingLlava3DPI")
class MapAnythingLlava3DPI(Qwen_PI):
    """The policy. Examples carry, besides QwenPI's keys, what `sagr.geometry.inputs.collect` reads; for training also
    those of the next frame (`_tk`) and, with feedback tokens, of the chunk before (`_tp`)."""

    def __init__(self, config: dict | None = None, **kwargs: Any) -> None:
        super().__init__(merge_framework_config(MapAnythingLlava3DPIDefaultConfig, config), **kwargs)
        self.sagr = read(self.config.framework)
        self.observer = Observer(self.sagr.stage)
        head = self.config.framework.action_model
        self.action_dim, self.state_dim = int(head.action_dim), head.state_dim
        self.diffusion_repeats = int(head.repeated_diffusion_steps)
        if self.sagr.active:
            self._build()

    def _build(self) -> None:
        modules = built(
            self.sagr,
            text_dim=self.qwen_vl_interface.model.get_input_embeddings().embedding_dim,
            context_dim=int(self.config.framework.qwenvl.vl_hidden_dim),
            action_dim=self.action_dim,
            state_dim=self.state_dim,
            horizon=self.action_horizon,
        )
        for name, module in modules.items():
            self.add_module(name, module)
        self.losses = SagrLosses(self.sagr.losses, self.sagr.guidance)
        self.guidance = ResidualGuidance(self.world_predictor, self.sagr.guidance)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, **kwargs: Any) -> Any:
        """As upstream's; a strict load of a checkpoint trained with other switches names the switch (RuntimeError)."""
        if strict:
            refuse_other_switches(self.state_dict(), state_dict)
        return super().load_state_dict(state_dict, strict=strict, **kwargs)

    # Perception

    def _text(self, examples: Sequence[dict]) -> tuple[Tensor, Tensor]:
        """Embeddings of the instructions' tokens [B, L, width], and which are no padding [B, L]."""
        return words_of(examples, self.qwen_vl_interface)

    def _look(
        self, examples: Sequence[dict], suffix: str, text: tuple[Tensor, Tensor], timer: Timer, ground: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See `sagr.looking.look`."""
        return look(examples, suffix, text, self.geometry_encoder, self.fusion_module, timer, ground)

    @torch.inference_mode()
    def task_tokens(self, examples: Sequence[dict]) -> tuple[Tensor, Tensor | None]:
        """Task tokens [B, Ns, D] and state [B, 1, Ds] or None, without the vision-language model: what a controller
        compares with its plan between two samplings."""
        self._require_active("task_tokens")
        tokens, _ = self._look(examples, "", self._text(examples), Timer(enabled=False))
        return tokens, self._state(examples, tokens.device)

    def _state(self, examples: Sequence[dict], device: torch.device) -> Tensor | None:
        state = batch.state(examples, self.state_dim)
        return None if state is None else state.to(device)

    def _require_active(self, what: str) -> None:
        if not self.sagr.active:
            raise ValueError(f"{what}: framework.sagr.geometry.backend is none; set it to depth or mapanything")

    # Training

    def forward(self, examples: list[dict] | None = None, **kwargs: Any) -> dict[str, Any]:
        """`action_loss`, the weighted total; `loss_fm`, `loss_dyn`, ..., its terms unweighted, without graphs; and
        `sagr`, the observer that the trainer's hook reads.

        Raises ValueError for examples that lack what the weights and switches need, naming example and key.
        """
        if not self.sagr.active:
            return super().forward(examples, **kwargs)
        weights = self.sagr.losses
        timer = self.observer.begin(self, self._groups())
        layers = mask = None
        if weights.flow or weights.w_align > 0:
            timer.mark("vlm_start")
            layers, mask = self._encode_vl_hidden_states(batch.images(examples), batch.instructions(examples))
            timer.mark("vlm_end")
        text = self._text(examples)
        tokens, ground = self._look(examples, "", text, timer, weights.w_ground > 0)
        align = self._alignment(tokens, layers, mask) if weights.w_align > 0 else None
        shown = tokens
        if self.training and self.sagr.perturbation > 0:
            # The head alone is shown noise. A predictor that starts from it and ends at the true next frame would learn
            # to take deviations back, and guidance lives on a predictor that carries them on.
            shown = tokens + self.sagr.perturbation * torch.randn_like(tokens)
        actions = batch.actions(examples, "action", self.action_horizon, self.action_dim, "it is what is learned")
        actions, state = actions.to(tokens.device), self._state(examples, tokens.device)
        transition = self._transition(examples, text, tokens, state, actions, timer) if weights.transition else None
        flow_loss = flow = None
        if weights.flow:
            feedback, valid = self._feedback_of_training(examples, text, shown)
            timer.mark("head_start")
            flow = FlowPass()
            context = self.fusion_module.context(layers, mask, shown, feedback, valid)
            flow_loss = self._flow_loss(context, actions, state, flow)
            timer.mark("head_end")
        losses = self.losses(self.world_predictor, transition, flow_loss, flow, align, ground)
        timer.mark("end")
        parts = {name: part.detach() for name, part in losses.parts.items()}
        if self.observer.record is not None:
            self.observer.record.monitors.update(losses.monitors)
            self.observer.record.losses.update(parts, total=losses.total.detach())
        return {
            "action_loss": losses.total,
            **{f"loss_{name}": part for name, part in parts.items()},
            "sagr": self.observer,
        }

    def _groups(self) -> dict[str, list[nn.Module]]:
        """Modules by the group of the gradient norms."""
        own = [self.geometry_encoder, self.fusion_module, self.world_predictor]
        if self.sagr.feedback.enable_causal_feedback_token:
            own.append(self.causal_feedback)
        return {"geo": own, "cfm": [self.action_model]}

    def _transition(
        self,
        examples: Sequence[dict],
        text: tuple[Tensor, Tensor],
        tokens: Tensor,
        state: Tensor | None,
        actions: Tensor,
        timer: Timer,
    ) -> Transition:
        timer.mark("sync_start")
        device = tokens.device
        valid = batch.flags(examples, "valid_tk", NEXT).to(device)
        between = batch.first(examples, "offset_tk", self.action_horizon).to(device)
        contact = None
        if any("contact" in example for example in examples):
            contact = batch.flags(examples, "contact", "other examples of the batch have it").to(device)
        with torch.no_grad():
            following, _ = self._look(examples, "_tk", text, timer)
        transition = Transition(tokens, following, state, actions, between, valid, contact)
        timer.mark("sync_end")
        return transition

    def _feedback_of_training(
        self, examples: Sequence[dict], text: tuple[Tensor, Tensor], tokens: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Feedback tokens [B, Kf, width] and which samples have any [B].

        They tell of the chunk *before* this one, as they do in deployment. Made of this chunk's actions and of the
        frame behind it they would give away the actions that are to be predicted.
        """
        settings, record = self.sagr.feedback, self.observer.record
        if record is not None:
            record.feedback_enabled = settings.enable_causal_feedback_token
        if not settings.enable_causal_feedback_token:
            return None, None
        device, horizon = tokens.device, self.action_horizon
        valid = batch.flags(examples, "valid_tp", PREVIOUS)
        executed = batch.first(examples, "offset_tp", horizon).to(device)
        needed = valid if settings.causal_feedback_use_valid_mask else None
        actions = batch.actions(examples, "action_tp", horizon, self.action_dim, PREVIOUS, needed).to(device)
        valid = valid.to(device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not settings.causal_feedback_detach_delta):
            before, _ = self._look(examples, "_tp", text, Timer(enabled=False))
        feedback = self.causal_feedback(before, tokens, actions, valid, executed)
        shown = valid if settings.causal_feedback_use_valid_mask else None
        if record is not None:
            record.feedback_tokens, record.feedback_valid = feedback.detach(), shown
            record.feedback_delta = (tokens.float().mean(1) - before.float().mean(1)).detach()
        return feedback, shown

    def _alignment(self, tokens: Tensor, layers: list[Tensor], mask: Tensor | None) -> Tensor:
        """InfoNCE between what the task tokens tell the head and what the vision-language model saw, by sample."""
        project = self.fusion_module.project
        return info_nce(project(tokens.to(project.weight.dtype)).mean(1), pooled(layers[-1], mask))

    def _flow_loss(
        self, context: tuple[list[Tensor], Tensor | None], actions: Tensor, state: Tensor | None, flow: FlowPass
    ) -> Tensor:
        layers, mask = context
        times, dtype = self.diffusion_repeats, layers[-1].dtype
        with torch.autocast(actions.device.type, enabled=False):
            return self.action_model(
                [layer.repeat(times, 1, 1) for layer in layers],
                actions.to(dtype).repeat(times, 1, 1),
                None if state is None else state.to(dtype).repeat(times, 1, 1),
                encoder_attention_mask=None if mask is None else mask.repeat(times, 1).bool(),
                flow=flow,
            )

    # Deployment

    @torch.inference_mode()
    def predict_action(
        self,
        examples: list[dict] | None = None,
        plan: Plan | None = None,
        executed: int | Sequence[int] | None = None,
        feedback_tokens: Tensor | np.ndarray | None = None,
        return_debug_info: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Samples a chunk for each example.

        Args:
            examples: observations at control step t.
            plan: what the call before returned as `plan`, of the same robots in the same order; None at the beginning
                of an episode, and after a change of an instruction: no guidance and no feedback then.
            executed: how many of the plan's actions have been executed since, one number or one an example; None: k.
            feedback_tokens: [B, Kf, width], instead of those that the plan gives.
            return_debug_info: adds `debug`, see `sagr.metrics.inference_metrics`.

        Returns:
            `normalized_actions` float32 [B, H, A], and with geometry `plan`, to be handed to the next call.

        Raises ValueError for input that does not fit, naming example and key, and for a plan of other instructions;
        RuntimeError for actions that are not finite.
        """
        asked = {"plan": plan is not None, "feedback_tokens": feedback_tokens is not None}
        if not self.sagr.active:
            for name in [name for name, given in {**asked, "return_debug_info": return_debug_info}.items() if given]:
                self._require_active(f"predict_action({name}=...)")
            return super().predict_action(examples, **kwargs)
        examples = examples if isinstance(examples, list) else [examples]
        timer = Timer(next(self.parameters()).device, return_debug_info)
        timer.mark("start")
        instructions = batch.instructions(examples)
        if plan is not None:
            plan.refuse_other(instructions)
        counts = executed_counts(
            self.sagr.executed(self.action_horizon) if executed is None else executed, len(examples)
        )
        layers, mask = self._encode_vl_hidden_states(self._images(examples), instructions)
        tokens, _ = self._look(examples, "", self._text(examples), timer)
        state = self._state(examples, tokens.device)
        timer.mark("perceived")
        feedback = self._feedback_of_plan(feedback_tokens, plan, tokens, counts)
        layers, mask = self.fusion_module.context(layers, mask, tokens, feedback)
        flow = TimedFlow(timer, self.guidance, self._reference(plan, tokens, state, counts))
        dtype = layers[-1].dtype
        with torch.autocast(tokens.device.type, enabled=False):
            actions = self.action_model.predict_action(
                layers, None if state is None else state.to(dtype), encoder_attention_mask=mask, flow=flow
            ).float()
        timer.mark("end")
        chunk = actions.cpu().numpy()
        if not np.isfinite(chunk).all():
            rows = [row for row, one in enumerate(chunk) if not np.isfinite(one).all()]
            raise RuntimeError(f"example(s) {rows}: the sampled actions hold NaN or inf; look at the weights")
        step = 0 if plan is None else plan.step + max(counts)
        made = Plan(tokens, state, actions, step, instructions=tuple(instructions))
        result = {"normalized_actions": chunk, "plan": made}
        if return_debug_info:
            steps = self.sagr.executed(self.action_horizon)
            residual = None if plan is None else plan.compare(self.world_predictor, tokens, counts)
            result["debug"] = inference_metrics(timer, flow.trace, steps, self.sagr.control_hz, residual)
        return result

    def predict_action_realtime(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's, at commits that have it, where the method is off; it would sample without task tokens.

        Raises NotImplementedError where it is on.
        """
        if self.sagr.active:
            raise NotImplementedError(
                "predict_action_realtime knows no task tokens, guidance or feedback: call predict_action, or set "
                "framework.sagr.geometry.backend to none"
            )
        return super().predict_action_realtime(*args, **kwargs)

    def _images(self, examples: Sequence[dict]) -> list:
        images = [to_pil_preserve(image) for image in batch.images(examples)]
        size = getattr(self.config.datasets.vla_data, "obs_image_size", None)
        return resize_images(images, target_size=size) if size else images

    def _reference(
        self, plan: Plan | None, tokens: Tensor, state: Tensor | None, executed: Sequence[int]
    ) -> Reference | None:
        settings = self.sagr.guidance
        if plan is None or not settings.enabled:
            return None
        return plan.reference(self.world_predictor, tokens, state, executed, settings.reference)

    def _feedback_of_plan(
        self,
        given: Tensor | np.ndarray | None,
        plan: Plan | None,
        tokens: Tensor,
        executed: Sequence[int],
    ) -> Tensor | None:
        """Feedback tokens [B, Kf, width]: those given, else the plan's where the switch is on; None for neither."""
        if given is not None:
            number, width = self.sagr.feedback.causal_feedback_token_num, self.fusion_module.project.out_features
            return from_outside(given, (len(tokens), number, width), tokens.device)
        if plan is None or not self.sagr.feedback.enable_causal_feedback_token:
            return None
        counts = [{"executed": count} for count in executed]
        carried_out = batch.first(counts, "executed", self.action_horizon).to(tokens.device)
        return self.causal_feedback(plan.tokens, tokens, plan.actions, executed=carried_out)
