"""What the switches cannot be combined with, and what to do instead."""

from typing import Any


def strategy_of(training_args: Any) -> str:
    """``no``, ``steps`` or ``epoch``: when the Trainer evaluates."""
    strategy = training_args.eval_strategy
    return str(getattr(strategy, "value", strategy))


def refuse(switch: str, refusals: list[tuple[Any, str, str]]) -> None:
    for refused, what, remedy in refusals:
        if refused:
            raise ValueError(f"`{switch}` cannot be combined with {what}: {remedy}.")


def probe_refusals(data_args: Any, training_args: Any, finetuning_args: Any) -> list[tuple[Any, str, str]]:
    return [
        (finetuning_args.stage != "sft", f"stage `{finetuning_args.stage}`", "probes run with `stage: sft` only"),
        (data_args.eval_dataset is None and data_args.val_size < 1e-6, "a run without validation",
         "set `val_size` or `eval_dataset`"),
        (data_args.streaming, "`streaming`", "the subset needs a validation set of known size"),
        (training_args.predict_with_generate, "`predict_with_generate`", "probes read one forward pass"),
        (getattr(finetuning_args, "use_mca", False), "Megatron (`USE_MCA`)", "it brings its own trainer"),
        (getattr(finetuning_args, "use_hyper_parallel", False), "`use_hyper_parallel`", "it brings its own trainer"),
    ]  # fmt: skip


def memory_refusals(model_args: Any, finetuning_args: Any) -> list[tuple[Any, str, str]]:
    return [
        (finetuning_args.moe_router != "gaussian", "`moe_router: linear`", "set `moe_router: gaussian`"),
        (not model_args.disable_gradient_checkpointing and (model_args.use_reentrant_gc or model_args.use_unsloth_gc),
         "reentrant or unsloth's gradient checkpointing", "what it runs has no graph to record; set "
         "`use_reentrant_gc: false` without `use_unsloth_gc`, or `disable_gradient_checkpointing: true`"),
    ]  # fmt: skip


def schedule_refusals(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> list[tuple[Any, str, str]]:
    evaluated = data_args.eval_dataset or data_args.dataset or []
    order = getattr(training_args, "train_sampling_strategy", "random")
    by_length = getattr(training_args, "group_by_length", False)
    names = ("use_dft_loss", "use_eaft_loss", "use_asft_loss")
    losses = [name for name in names if getattr(finetuning_args, name, False)]
    layerwise = [n for n in ("galore_layerwise", "apollo_layerwise", "use_badam") if getattr(finetuning_args, n, False)]
    return [
        (finetuning_args.stage != "sft", f"stage `{finetuning_args.stage}`", "it schedules `stage: sft` only"),
        (len(set(data_args.dataset or [])) < 2, "less than two data sets", "name the tasks in `dataset`, with commas"),
        (len(set(data_args.dataset or [])) != len(data_args.dataset or []), "a data set named twice", "name it once"),
        (data_args.streaming, "`streaming`", "a task's samples must be known to draw from them"),
        (data_args.packing or data_args.neat_packing, "packing", "a packed row mixes data sets; set `packing: false`"),
        (data_args.mix_strategy != "concat", f"`mix_strategy: {data_args.mix_strategy}`",
         "the schedule does the mixing; set `mix_strategy: concat`"),
        (data_args.eval_dataset is None and data_args.val_size < 1e-6, "a run without validation",
         "set `val_size`, or `eval_dataset` with one for each of `dataset`, in its order"),
        (len(evaluated) != len(data_args.dataset or []), f"{len(evaluated)} evaluation sets for "
         f"{len(data_args.dataset or [])} data sets", "name one for each, in the order of `dataset`"),
        (len(set(evaluated)) != len(evaluated), "an evaluation set named twice", "each task needs one of its own"),
        (strategy_of(training_args) == "no", "`eval_strategy: no`",
         "choices come from evaluations; set `eval_strategy: epoch`, an epoch being one chunk of steps"),
        (training_args.predict_with_generate, "`predict_with_generate`", "accuracy comes from one forward pass"),
        (by_length or order != "random", "`group_by_length` or another `train_sampling_strategy`",
         "the schedule brings its own sampler"),
        (training_args.auto_find_batch_size, "`auto_find_batch_size`", "a chunk has a fixed number of samples"),
        (training_args.ignore_data_skip, "`ignore_data_skip`", "a resumed run would leave the schedule's order"),
        (getattr(training_args, "restore_callback_states_from_checkpoint", False),
         "`restore_callback_states_from_checkpoint`", "the schedule restores its own state; set it to false"),
        (training_args.deepspeed or getattr(training_args, "fsdp", None), "DeepSpeed or FSDP",
         "the validation's gradients need whole parameters; use DDP"),
        (training_args.fp16 and training_args.max_grad_norm <= 0, "`fp16` without clipping",
         "gradients stay scaled until they are clipped; set `max_grad_norm` above 0, or `bf16`"),
        (training_args.label_smoothing_factor, "`label_smoothing_factor`", "the model would not see its labels"),
        (losses, f"`{', '.join(losses)}`", "the model would not see its labels"),
        (layerwise, f"`{', '.join(layerwise)}`", "gradients are gone before their norm can be taken"),
        (model_args.use_unsloth, "`use_unsloth`", "it returns no logits in training"),
        (model_args.enable_liger_kernel, "`enable_liger_kernel`", "its fused loss returns no logits"),
        (getattr(model_args, "use_kt", False), "`use_kt`", "KTransformers' experts give no gradients here"),
        (getattr(finetuning_args, "use_mca", False), "Megatron (`USE_MCA`)", "it brings its own trainer"),
        (getattr(finetuning_args, "use_hyper_parallel", False), "`use_hyper_parallel`", "it brings its own trainer"),
    ]  # fmt: skip
