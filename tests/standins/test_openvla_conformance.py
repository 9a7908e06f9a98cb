"""The stand-in for openvla has the real one's seams: the same edits match in the same definitions, what surrounds them
agrees. Both trees are parsed; no upstream code is run.

The half that needs the real tree is marked ``upstream`` and reads the pinned commit from whatever repository has it.
"""

from __future__ import annotations

import ast

import pytest

from graft.tree import Tree
from tests.standins.conformance import (
    Named,
    check_edits,
    check_imports,
    fields,
    first_calls,
    formatted,
    module,
    own_tree,
    parameters,
    places,
    real_tree,
)
from tests.standins.openvla_project import OVERLAY

HF, SCRIPTS, ROBOT = "prismatic/extern/hf", "vla-scripts", "experiments/robot"
STRATEGIES, DATA = "prismatic/training/strategies", "prismatic/vla/datasets"
PROMPTING = "prismatic/models/backbones/llm/prompting"
PACKAGES = ("prismatic", "experiments")

FIELDS = {  # dataclasses: the same fields with the same defaults, but for those named, which only have to be there
    f"{SCRIPTS}/finetune.py FinetuneConfig": (),
    f"{SCRIPTS}/train.py TrainConfig": ("vla",),
    f"{ROBOT}/libero/run_libero_eval.py GenerateConfig": (),
    f"{DATA}/datasets.py RLDSBatchTransform": (),
    "prismatic/util/data_utils.py PaddedCollatorForActionPrediction": (),
}
SIGNATURES = [  # functions: the same parameters in the same order with the same defaults
    f"{SCRIPTS}/finetune.py finetune",
    f"{SCRIPTS}/train.py train",
    f"{ROBOT}/libero/run_libero_eval.py eval_libero",
    f"{ROBOT}/openvla_utils.py get_vla",
    f"{ROBOT}/openvla_utils.py get_processor",
    f"{ROBOT}/openvla_utils.py get_vla_action",
    f"{ROBOT}/robot_utils.py get_model",
    f"{ROBOT}/robot_utils.py get_action",
    f"{ROBOT}/robot_utils.py normalize_gripper_action",
    f"{ROBOT}/robot_utils.py invert_gripper_action",
    f"{ROBOT}/libero/libero_utils.py get_libero_env",
    f"{ROBOT}/libero/libero_utils.py get_libero_image",
    f"{ROBOT}/libero/libero_utils.py save_rollout_video",
    *(
        f"{STRATEGIES}/base_strategy.py TrainingStrategy.{name}"
        for name in ("__init__", "save_checkpoint", "run_setup", "clip_grad_norm", "run_training", "run_vla_training")
    ),
    *(f"{STRATEGIES}/fsdp.py FSDPStrategy.{name}" for name in ("save_checkpoint", "run_setup", "clip_grad_norm")),
    *(
        f"prismatic/training/metrics.py VLAMetrics.{name}"
        for name in ("__init__", "log", "get_status", "commit", "commit_for_dataset", "push", "finalize")
    ),
    *(f"{PROMPTING}/base_prompter.py PromptBuilder.{name}" for name in ("__init__", "add_turn", "get_prompt")),
    f"{PROMPTING}/vicuna_v15_prompter.py VicunaV15ChatPromptBuilder.__init__",
    f"{HF}/modeling_prismatic.py PrismaticForConditionalGeneration.forward",
    f"{HF}/modeling_prismatic.py OpenVLAForActionPrediction.predict_action",
    f"{HF}/modeling_prismatic.py OpenVLAForActionPrediction.get_action_dim",
    f"{HF}/modeling_prismatic.py OpenVLAForActionPrediction.get_action_stats",
    f"{HF}/processing_prismatic.py PrismaticImageProcessor.apply_transform",
    f"{HF}/processing_prismatic.py PrismaticProcessor.__call__",
    "prismatic/models/vlms/prismatic.py PrismaticVLM.forward",
    "prismatic/models/vlms/prismatic.py PrismaticVLM.freeze_backbones",
    "prismatic/models/load.py available_models",
    "prismatic/models/load.py load",
    "prismatic/models/load.py load_vla",
    f"{DATA}/datasets.py RLDSBatchTransform.__call__",
    f"{DATA}/datasets.py RLDSDataset.__init__",
    f"{DATA}/datasets.py EpisodicRLDSDataset.__iter__",
    f"{DATA}/rlds/utils/data_utils.py save_dataset_statistics",
    "prismatic/vla/action_tokenizer.py ActionTokenizer.__init__",
    "prismatic/vla/action_tokenizer.py ActionTokenizer.__call__",
    "prismatic/vla/action_tokenizer.py ActionTokenizer.decode_token_ids_to_actions",
    "prismatic/vla/materialize.py get_vla_dataset_and_collator",
    "prismatic/util/data_utils.py PaddedCollatorForActionPrediction.__call__",
]
CALLS = {  # calls in the order in which they first stand in a function
    f"{SCRIPTS}/finetune.py finetune": (
        *("PartialState", "os.makedirs", "AutoProcessor.from_pretrained", "AutoModelForVision2Seq.from_pretrained"),
        *("LoraConfig", "get_peft_model", "vla.print_trainable_parameters", "DDP", "AdamW", "ActionTokenizer"),
        *("RLDSBatchTransform", "RLDSDataset", "save_dataset_statistics", "PaddedCollatorForActionPrediction"),
        *("DataLoader", "wandb.init", "vla.train", "optimizer.zero_grad", "vla", "normalized_loss.backward"),
        *("wandb.log", "optimizer.step", "progress.update", "processor.save_pretrained"),
        *("vla.module.save_pretrained", "dist.barrier", "PeftModel.from_pretrained", "merged_vla.merge_and_unload"),
    ),
    f"{SCRIPTS}/train.py train": (
        *("set_global_seed", "os.makedirs", "draccus.dump", "load_vla", "load", "vlm.freeze_backbones"),
        *("get_vla_dataset_and_collator", "save_dataset_statistics", "get_train_strategy"),
        *("train_strategy.run_setup", "VLAMetrics", "train_strategy.run_vla_training", "metrics.finalize"),
    ),
    f"{STRATEGIES}/base_strategy.py TrainingStrategy.run_vla_training": (
        *("DataLoader", "self.vlm.train", "self.vlm", "metrics.commit", "loss.backward", "self.clip_grad_norm"),
        *("self.optimizer.step", "self.lr_scheduler.step", "metrics.push", "self.save_checkpoint", "dist.barrier"),
        "progress.update",
    ),
    f"{STRATEGIES}/fsdp.py FSDPStrategy.run_setup": ("FSDP", "apply_activation_checkpointing", "dist.barrier"),
    f"{ROBOT}/libero/run_libero_eval.py eval_libero": (
        *("set_seed_everywhere", "get_model", "get_processor", "open", "benchmark.get_benchmark_dict"),
        *("get_image_resize_size", "task_suite.get_task", "task_suite.get_task_init_states", "get_libero_env"),
        *("env.reset", "env.set_init_state", "env.step", "get_libero_image", "get_action", "normalize_gripper_action"),
        *("invert_gripper_action", "save_rollout_video", "log_file.close", "wandb.save"),
    ),
}
SAID = {  # strings that a model is trained on: each of the stand-in's formatted strings stands in the real file too
    f"{PROMPTING}/base_prompter.py": ("In: {", "Out: "),
    f"{PROMPTING}/vicuna_v15_prompter.py": ("USER: {", "ASSISTANT: "),
    f"{DATA}/datasets.py": ("What action should the robot take to {",),
}


@pytest.fixture(scope="module")
def own() -> Tree:
    return own_tree("openvla")


@pytest.fixture(scope="module")
def real() -> Tree:
    return real_tree("openvla")


def test_every_edit_stands_in_the_stand_in(own: Tree) -> None:
    check_edits(own, "openvla")


@pytest.mark.upstream
def test_every_edit_stands_in_the_same_definition_of_the_real_tree(own: Tree, real: Tree) -> None:
    assert places(own, "openvla") == places(real, "openvla")


@pytest.mark.upstream
@pytest.mark.parametrize("name", FIELDS)
def test_configurations_have_the_same_fields(name: str, own: Tree, real: Tree) -> None:
    ours, theirs = fields(Named(own, name).node), fields(Named(real, name).node)
    assert list(ours) == list(theirs)
    free = FIELDS[name]
    assert {k: v for k, v in ours.items() if k not in free} == {k: v for k, v in theirs.items() if k not in free}


@pytest.mark.upstream
@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_have_the_same_parameters(name: str, own: Tree, real: Tree) -> None:
    assert parameters(Named(own, name).node) == parameters(Named(real, name).node)


@pytest.mark.parametrize("name", CALLS)
def test_functions_make_the_calls_that_seams_stand_between(name: str, own: Tree) -> None:
    assert first_calls(Named(own, name).node, CALLS[name]) == list(CALLS[name])


@pytest.mark.upstream
@pytest.mark.parametrize("name", CALLS)
def test_functions_make_their_calls_in_the_same_order(name: str, own: Tree, real: Tree) -> None:
    assert first_calls(Named(own, name).node, CALLS[name]) == first_calls(Named(real, name).node, CALLS[name])


@pytest.mark.upstream
@pytest.mark.parametrize("path", SAID)
def test_prompts_are_worded_the_same(path: str, own: Tree, real: Tree) -> None:
    for words in SAID[path]:
        ours = {text for text in formatted(own, path) if words in text}
        assert ours
        assert ours <= formatted(real, path)


@pytest.mark.upstream
def test_the_system_sentence_and_the_empty_token_are_upstreams(own: Tree, real: Tree) -> None:
    def constants(tree: Tree, path: str) -> set[object]:
        return {each.value for each in ast.walk(module(tree, path)) if isinstance(each, ast.Constant)}

    path = f"{PROMPTING}/vicuna_v15_prompter.py"
    (sentence,) = (each for each in constants(own, path) if isinstance(each, str) and each.startswith("A chat"))
    assert sentence in constants(real, path)
    assert {29871} <= constants(own, f"{HF}/modeling_prismatic.py") & constants(real, f"{HF}/modeling_prismatic.py")


def test_the_stand_in_offers_what_overlays_import(own: Tree) -> None:
    check_imports(own, OVERLAY, *PACKAGES)


@pytest.mark.upstream
def test_the_real_tree_offers_what_overlays_import(real: Tree) -> None:
    check_imports(real, OVERLAY, *PACKAGES)
