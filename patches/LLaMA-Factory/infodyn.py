from graft.pack import In, Pack, add_base, add_field, add_import, after, before, ensure

LOADER = "src/llamafactory/data/loader.py"
SFT = "src/llamafactory/train/sft/workflow.py"

PACK = Pack(
    upstream="LLaMA-Factory",
    name="infodyn",
    why="information dynamics: schedules that evaluations decide, activation probes, Gaussian routing of experts",
    edits=[
        In(
            "src/llamafactory/hparams/finetuning_args.py",
            "FinetuningArguments",
            add_import("from ..infodyn_factory.arguments import InfodynArguments", why="the switches live there"),
            add_base("InfodynArguments", why="the trainer and load_model both read finetuning arguments"),
        ),
        In(
            "src/llamafactory/hparams/data_args.py",
            "DataArguments",
            add_field(
                "name_sources: bool = field(default=False, init=False)",
                why="the data side must know, and datasets' cache must tell on from off; derived, so not a switch",
            ),
        ),
        In(
            "src/llamafactory/hparams/parser.py",
            "get_train_args",
            add_import("from ..infodyn_factory.arguments import resolve_infodyn", why="checks of the switches"),
            after(
                "_verify_model_args(model_args, data_args, finetuning_args)",
                add="resolve_infodyn(model_args, data_args, training_args, finetuning_args)",
                why="the training arguments are known here, and nothing is loaded yet",
            ),
        ),
        In(
            LOADER,
            "_get_merged_dataset",
            add_import("from ..infodyn_factory.sources import keep_sources, name_source", why="sources of rows"),
            after(
                "datasets[dataset_name] = _load_single_dataset(...)",
                add="datasets[dataset_name] = name_source(datasets[dataset_name], dataset_name, data_args)",
                why="the last place at which a data set is alone and its name is known",
            ),
        ),
        In(
            LOADER,
            "_get_preprocessed_dataset",
            after(
                "dataset_processor = _get_dataset_processor(...)",
                add="dataset_processor = keep_sources(dataset_processor, data_args)",
                why="tokenization removes every column that the processor does not give",
            ),
        ),
        In(
            "src/llamafactory/model/loader.py",
            "load_model",
            add_import("from ..infodyn_factory.router import route", why="Gaussian gates"),
            before(
                "model = init_adapter(...)",
                add="route(model, finetuning_args)",
                why="adapters must find the final gates, and freezing must reach them",
            ),
        ),
        In(
            SFT,
            "run_sft",
            add_import("from ...infodyn_factory.trainer import attach_infodyn", why="schedule and probes"),
            after(
                "trainer = CustomSeq2SeqTrainer(...)",
                add="attach_infodyn(trainer, dataset_module, data_args, finetuning_args)",
                why="trainer, data and arguments are all there, and training has not begun",
            ),
        ),
    ],
    overlays=["src/llamafactory/infodyn_factory"],
    common={"infodyn": "src/llamafactory/infodyn"},
    ensures=[
        ensure("src/llamafactory/hparams/parser.py", "get_train_args", "resolve_infodyn(...)", why="checks run"),
        ensure(LOADER, "_get_merged_dataset", "name_source(...)", why="sources are named"),
        ensure(LOADER, "_get_preprocessed_dataset", "keep_sources(...)", why="sources survive tokenization"),
        ensure("src/llamafactory/model/loader.py", "load_model", "route(...)", why="the model gets its gates"),
        ensure(SFT, "run_sft", "attach_infodyn(...)", why="the trainer gets its schedule"),
    ],
)
