from graft.pack import In, Pack, add_base, add_field, add_import, after, before, either, ensure

SFT = "src/llamafactory/data/processor/supervised.py"
ENCODE = "encoded_pairs = self.template.encode_multiturn($tokenizer, $messages, $system, $tools"
GENERATION = "src/llamafactory/data/processor/unsupervised.py"

PACK = Pack(
    upstream="LLaMA-Factory",
    name="hsa",
    why="hierarchical semantic attention: messages carry a type, and attention is biased by the type of the key",
    edits=[
        In(
            "src/llamafactory/hparams/model_args.py",
            "ModelArguments",
            add_import("from ..hsa.arguments import HSAArguments", why="the switches live in the overlay"),
            add_base("HSAArguments", why="switches are fields of ModelArguments; load_model reads them there"),
        ),
        In(
            "src/llamafactory/hparams/data_args.py",
            "DataArguments",
            add_field(
                "semantic_ids: bool = field(default=False, init=False)",
                why="the data side must know, and datasets' cache must tell on from off; derived, so not a switch",
            ),
        ),
        In(
            "src/llamafactory/hparams/parser.py",
            "_verify_model_args",
            add_import("from ..hsa.arguments import resolve_hsa", why="checks of the switches"),
            before(
                "if model_args.quantization_bit is not None: ...",
                add="resolve_hsa(model_args, data_args, finetuning_args)",
                why="every way to run passes here before anything is loaded",
            ),
        ),
        In(
            "src/llamafactory/data/parser.py",
            "DatasetAttr.join",
            after(
                'tag_names = ["role_tag", "content_tag"]',
                add='self.set_attr("semantic_tag", attr["tags"])',
                why="dataset_info may name the key that holds a message's type",
            ),
        ),
        In(
            "src/llamafactory/data/converter.py",
            "align_dataset",
            add_import("from ..hsa.converter import with_semantic_types", why="reads the messages' types"),
            after(
                "dataset_converter = get_dataset_converter(...)",
                add="dataset_converter = with_semantic_types(dataset_converter, kwargs)",
                why="one place for every format; with the sample's number, which errors name",
            ),
        ),
        In(
            SFT,
            "SupervisedDatasetProcessor._encode_data_example",
            add_import(
                "from ...hsa.tagging import emit_semantic_ids, seal_types, tag_pairs",
                why="types travel inside the token ids",
            ),
            either(
                {
                    "from v0.9.5": after(
                        f"{ENCODE}, $discard)",
                        add="encoded_pairs = tag_pairs(self, encoded_pairs, $messages, $system, $tools, $discard)",
                        why="upstream may discard the reasoning of earlier turns",
                    ),
                    "up to v0.9.4": after(
                        f"{ENCODE})",
                        add="encoded_pairs = tag_pairs(self, encoded_pairs, $messages, $system, $tools)",
                        why="upstream always keeps it",
                    ),
                },
                why="each id gets its message's type, before truncation and reversal",
            ),
            before(
                "return input_ids, labels",
                add="seal_types(self, input_ids)",
                why="ids that the processor added get a type while the sample is still alone",
            ),
        ),
        In(
            SFT,
            "SupervisedDatasetProcessor.preprocess_dataset",
            before(
                "return model_inputs",
                add="emit_semantic_ids(self, model_inputs)",
                why="tags become the column semantic_ids, ids plain ints",
            ),
        ),
        In(
            SFT,
            "PackedSupervisedDatasetProcessor.preprocess_dataset",
            before(
                "return model_inputs",
                add="emit_semantic_ids(self, model_inputs)",
                why="tags become the column semantic_ids, ids plain ints",
            ),
        ),
        In(
            GENERATION,
            "UnsupervisedDatasetProcessor._encode_data_example",
            add_import("from ...hsa.tagging import emit_semantic_ids, tag_prompt", why="types travel inside the ids"),
            after(
                "input_ids, labels = self.template.encode_oneturn($tokenizer, $messages, $system, $tools)",
                add="input_ids = tag_prompt(self, input_ids, $messages, $system, $tools)",
                why="prompts to generate from carry types too",
            ),
        ),
        In(
            GENERATION,
            "UnsupervisedDatasetProcessor.preprocess_dataset",
            before(
                "return model_inputs",
                add="emit_semantic_ids(self, model_inputs)",
                why="tags become the column semantic_ids, ids plain ints",
            ),
        ),
        In(
            "src/llamafactory/data/collator.py",
            "MultiModalDataCollatorForSeq2Seq.__call__",
            add_import("from ..hsa.collator import put_semantic_ids, take_semantic_ids", why="pads semantic_ids"),
            before(
                "features = super().__call__(features)",
                add="semantic_ids = take_semantic_ids(self, features)",
                why="the tokenizer cannot pad a column that it does not know",
            ),
            after(
                "features = super().__call__(features)",
                add="put_semantic_ids(self, features, semantic_ids)",
                why="padded to the final length, which counts tokens that the collator added",
            ),
        ),
        In(
            "src/llamafactory/model/loader.py",
            "load_model",
            add_import("from .hsa_patch import apply_hsa_patch", why="puts HSA on a model"),
            before(
                "return model",
                add="apply_hsa_patch(model, model_args, is_trainable)",
                why="adapters are in place, so the hooks sit on the final modules",
            ),
        ),
    ],
    overlays=["src/llamafactory/hsa", "src/llamafactory/model/hsa_patch.py"],
    ensures=[
        ensure(SFT, "SupervisedDatasetProcessor._encode_data_example", "tag_pairs(...)", why="types reach the ids"),
        ensure(SFT, "PackedSupervisedDatasetProcessor.preprocess_dataset", "emit_semantic_ids(...)", why="packed too"),
        ensure("src/llamafactory/model/loader.py", "load_model", "apply_hsa_patch(...)", why="the model gets HSA"),
        ensure(
            "src/llamafactory/hparams/parser.py", "_verify_model_args", "resolve_hsa(...)", why="switches are checked"
        ),
    ],
)
