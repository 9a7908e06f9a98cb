from graft.pack import In, Pack, add_field, add_import, after, before, ensure, into_dict

FINETUNE = "vla-scripts/finetune.py"
TRAIN = "vla-scripts/train.py"
STRATEGY = "prismatic/training/strategies/base_strategy.py"
METRICS = "prismatic/training/metrics.py"
FIELD = "surgery: SurgeryConfig = draccus.field(default_factory=SurgeryConfig)"

PACK = Pack(
    upstream="openvla",
    name="gradient_surgery",
    why="gradient surgery against forgetting: gradients along fragile semantic directions are damped in fine-tuning",
    edits=[
        In(
            FINETUNE,
            "FinetuneConfig",
            add_import("from prismatic.gradient_surgery import SurgeryConfig, attach", why="the seams below use them"),
            add_field(FIELD, why="the switches, off by default: --surgery.enabled True"),
        ),
        In(
            FINETUNE,
            "finetune",
            before(
                "run_dir, adapter_dir = cfg.run_root_dir / exp_id, cfg.adapter_tmp_dir / exp_id",
                add="exp_id += cfg.surgery.tag()",
                why="a run with the method never overwrites the baseline's folder",
            ),
            after(
                "$vla = DDP($vla, ...)",
                add="surgery = attach($vla, cfg, processor, run_dir)",
                why="the hooks need the model as it will be run; nothing has been trained yet",
            ),
            into_dict(
                '{"train_loss": $loss, ...}',
                add="**surgery.metrics()",
                why="upstream's own dictionary, so the numbers stand beside the loss",
            ),
            before(
                "optimizer.step()",
                add="surgery.before_step()",
                why="gradients are complete and unused; it counts the steps itself, the same in every version",
            ),
            after(
                "vla.module.save_pretrained(save_dir)",
                add="surgery.save(save_dir)",
                why="the thermostat's state belongs beside the weights that it led to",
            ),
        ),
        In(
            TRAIN,
            "TrainConfig",
            add_import("from prismatic.gradient_surgery import SurgeryConfig, attach_strategy", why="the seams below"),
            add_field(FIELD, why="the same switches on the path with FSDP"),
        ),
        In(
            TRAIN,
            "train",
            before(
                "os.makedirs(run_dir := $folder, exist_ok=True)",
                add="cfg.run_id += cfg.surgery.tag()",
                why="a run with the method never overwrites the baseline's folder",
            ),
            after(
                "train_strategy.run_setup(...)",
                add="train_strategy.surgery = attach_strategy(train_strategy, cfg, run_dir)",
                why="FSDP and activation checkpointing are in place, so the hooks sit on the final modules",
            ),
        ),
        In(
            STRATEGY,
            "TrainingStrategy.run_vla_training",
            add_import("from prismatic import gradient_surgery", why="the seams below; its names are common words"),
            before(
                "self.clip_grad_norm()",
                add="gradient_surgery.before_step(self, metrics)",
                why="gradients are complete and unused",
            ),
            after(
                "self.save_checkpoint(...)",
                add="gradient_surgery.save(self, metrics)",
                why="the thermostat's state belongs beside the weights that it led to",
            ),
        ),
        In(
            METRICS,
            "VLAMetrics.push",
            into_dict(
                "{..., **dataset_metrics}",
                add='**getattr(self, "surgery", {})',
                why="before_step leaves the numbers there; without the method there are none",
            ),
        ),
    ],
    overlays=["research", "prismatic/gradient_surgery.py"],
    ensures=[
        ensure(FINETUNE, "finetune", "surgery.before_step(...)", why="the thermostat is asked at each step"),
        ensure(FINETUNE, "finetune", "attach(...)", why="the hooks are set"),
        ensure(STRATEGY, "TrainingStrategy.run_vla_training", "gradient_surgery.before_step(...)", why="FSDP's path"),
        ensure(STRATEGY, "TrainingStrategy.run_training", "gradient_surgery.before_step(...)", why="not VLMs", times=0),
    ],
)
