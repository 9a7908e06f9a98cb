from graft.pack import In, Pack, add_field, add_import, after, before, ensure

SFT = "src/llamafactory/data/processor/supervised.py"

PACK = Pack(
    upstream="LLaMA-Factory",
    name="feedback",
    why="feedback masking: no loss on a sample's tokens up to and including its first feedback token",
    edits=[
        In(
            "src/llamafactory/hparams/data_args.py",
            "DataArguments",
            add_field(
                'use_feedback: bool = field(default=False, metadata={"help": "No loss up to the feedback token."})',
                why="the switch; a data argument, so that datasets' cache tells on from off",
            ),
            add_field(
                'feedback_token: str = field(default="<|feedback|>", metadata={"help": "Added as a special token."})',
                why="models that know another token for it can keep theirs",
            ),
        ),
        In(
            "src/llamafactory/hparams/parser.py",
            "_verify_model_args",
            add_import("from ..feedback.arguments import resolve_feedback", why="checks of the switch"),
            before(
                "if model_args.quantization_bit is not None: ...",
                add="resolve_feedback(model_args, data_args, finetuning_args)",
                why="before anything is loaded; the token joins add_special_tokens here",
            ),
        ),
        In(
            SFT,
            "SupervisedDatasetProcessor._encode_data_example",
            add_import(
                "from ...feedback.masking import drop_unlabelled, mark_before_feedback, mask_before_feedback",
                why="the mask itself",
            ),
            after(
                "encoded_pairs = self.template.encode_multiturn(...)",
                add="encoded_pairs = mark_before_feedback(self, encoded_pairs)",
                why="the whole sample is known here; truncation may cut the token off later",
            ),
            before(
                "return input_ids, labels",
                add="mask_before_feedback(self, input_ids, labels)",
                why="one sample at a time, so it holds within each part of a packed row",
            ),
        ),
        In(
            SFT,
            "SupervisedDatasetProcessor.preprocess_dataset",
            before(
                "return model_inputs",
                add="drop_unlabelled(self, model_inputs)",
                why="a row without any label would make the loss NaN",
            ),
        ),
        In(
            SFT,
            "PackedSupervisedDatasetProcessor.preprocess_dataset",
            before(
                "return model_inputs",
                add="drop_unlabelled(self, model_inputs)",
                why="a row without any label would make the loss NaN",
            ),
        ),
    ],
    overlays=["src/llamafactory/feedback"],
    ensures=[
        ensure(
            SFT,
            "SupervisedDatasetProcessor._encode_data_example",
            "mark_before_feedback(...)",
            why="positions are kept",
        ),
        ensure(
            SFT, "SupervisedDatasetProcessor._encode_data_example", "mask_before_feedback(...)", why="labels are masked"
        ),
        ensure("src/llamafactory/data/processor/supervised.py", None, "drop_unlabelled(...)", why="both ways", times=2),
    ],
)
