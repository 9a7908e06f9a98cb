from graft.pack import In, Pack, add_import, after, ensure

TRAIN = "starVLA/training/train_starvla.py"

PACK = Pack(
    upstream="starVLA",
    name="infodyn",
    why="information dynamics: activation probes at the trainer's evaluations",
    edits=[
        In(
            TRAIN,
            "main",
            add_import("from starVLA.infodyn_trainer import attach_probes", why="the seam below"),
            after(
                "trainer.prepare_training()",
                add="attach_probes(trainer)",
                why="model, data and checkpoint are there, and training has not begun",
            ),
        ),
    ],
    overlays=["starVLA/infodyn_trainer.py"],
    common={"infodyn": "starVLA/infodyn"},
    ensures=[ensure(TRAIN, "main", "attach_probes(...)", why="the trainer gets its probes")],
)
