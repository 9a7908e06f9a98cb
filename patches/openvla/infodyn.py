from graft.pack import In, Pack, add_field, add_import, after, ensure

FINETUNE = "vla-scripts/finetune.py"

PACK = Pack(
    upstream="openvla",
    name="infodyn",
    why="information dynamics: activation probes on held-out frames whenever a checkpoint is saved",
    edits=[
        In(
            FINETUNE,
            "FinetuneConfig",
            add_field("probes: str | None = None", why="the switch, off by default: --probes FILE"),
        ),
        In(
            FINETUNE,
            "finetune",
            add_import("from prismatic.infodyn_finetune import attach_probes", why="the seams below"),
            after(
                "$loader = DataLoader($dataset, collate_fn=$collator, ...)",
                add="probes = attach_probes(vla, cfg, $dataset, $collator, run_dir)",
                why="model and data are there, and nothing has been trained yet",
            ),
            after(
                "optimizer.step()",
                add="probes.after_step()",
                why="all ranks are here; it counts the steps itself, the same in every version",
            ),
        ),
    ],
    overlays=["prismatic/infodyn_finetune.py"],
    common={"infodyn": "prismatic/infodyn"},
    ensures=[
        ensure(FINETUNE, "finetune", "attach_probes(...)", why="the probes are made"),
        ensure(FINETUNE, "finetune", "probes.after_step()", why="the probes are taken"),
    ],
)
