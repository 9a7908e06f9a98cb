"""The stand-in for starVLA has the real one's seams: the same edits match in the same definitions, what surrounds them
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
    first_calls,
    module,
    own_tree,
    parameters,
    places,
    real_tree,
)
from tests.standins.starvla_project import OVERLAY, STANDIN

FRAMEWORK, TRAINING = "starVLA/model/framework", "starVLA/training"
HEAD = "starVLA/model/modules/action_model/LayerwiseFM_ActionHeader.py"
QWENPI, TRAIN = f"{FRAMEWORK}/VLM4A/QwenPI.py", f"{TRAINING}/train_starvla.py"
TOOLS, TRACKER = f"{TRAINING}/trainer_utils/trainer_tools.py", f"{TRAINING}/trainer_utils/config_tracker.py"
DATA, LEROBOT = "starVLA/dataloader/lerobot_datasets.py", "starVLA/dataloader/gr00t_lerobot/datasets.py"
PACKAGES = ("starVLA", "deployment")

SIGNATURES = [  # functions: the same parameters in the same order with the same defaults
    *(f"{HEAD} LayerwiseFlowmatchingActionHead.{name}" for name in ("__init__", "forward", "predict_action")),
    f"{HEAD} LayerwiseFlowmatchingActionHead.sample_time",
    f"{HEAD} get_action_model",
    *(f"{QWENPI} Qwen_PI.{name}" for name in ("__init__", "_encode_vl_hidden_states", "forward", "predict_action")),
    f"{FRAMEWORK}/base_framework.py build_framework",
    *(f"{FRAMEWORK}/base_framework.py baseframework.{name}" for name in ("forward", "predict_action")),
    f"{FRAMEWORK}/base_framework.py baseframework.from_pretrained",
    *(
        f"{FRAMEWORK}/share_tools.py {name}"
        for name in ("merge_framework_config", "populate_layerwise_dit_cfg", "apply_config_compat", "read_mode_config")
    ),
    "starVLA/model/tools.py Registry.register",
    "starVLA/model/modules/vlm/__init__.py get_vlm_model",
    "starVLA/model/modules/vlm/QWen2_5.py _QWen_VL_Interface.build_qwenvl_inputs",
    f"{TOOLS} normalize_dotlist_args",
    f"{TOOLS} build_param_lr_groups",
    f"{TOOLS} resize_images",
    f"{TOOLS} TrainerUtils.load_pretrained_backbones",
    f"{TOOLS} TrainerUtils.freeze_backbones",
    f"{TRACKER} AccessTrackedConfig.get",
    f"{TRACKER} AccessTrackedConfig.save_accessed_config",
    f"{TRACKER} wrap_config",
    *(f"{TRAIN} {name}" for name in ("setup_directories", "prepare_data", "setup_optimizer_and_scheduler", "main")),
    *(f"{TRAIN} VLATrainer.{name}" for name in ("__init__", "prepare_training", "train", "_train_step")),
    "starVLA/dataloader/__init__.py build_dataloader",
    f"{DATA} collate_fn",
    f"{DATA} make_LeRobotSingleDataset",
    f"{DATA} get_vla_dataset",
    *(
        f"{LEROBOT} LeRobotSingleDataset.{name}"
        for name in ("__init__", "__getitem__", "_pack_sample", "get_step_data", "get_trajectory_data")
    ),
    *(f"{LEROBOT} LeRobotSingleDataset.{name}" for name in ("get_trajectory_index", "get_data_by_modality")),
    *(f"{LEROBOT} LeRobotMixtureDataset.{name}" for name in ("sample_step", "__getitem__", "save_dataset_statistics")),
    "starVLA/dataloader/gr00t_lerobot/registry.py discover_and_merge",
    "deployment/model_server/tools/image_tools.py to_pil_preserve",
]
ADDED_LATER = {  # by function: parameters with a default that upstream has given it since the pin
    f"{FRAMEWORK}/base_framework.py baseframework.from_pretrained": [("config_overrides", "None")],
}
CALLS = {  # calls in the order in which they first stand in a function
    f"{HEAD} LayerwiseFlowmatchingActionHead.__init__": (
        *("DiT", "MLP", "ActionEncoder", "nn.Embedding", "nn.init.normal_", "Beta"),
    ),
    f"{QWENPI} Qwen_PI.__init__": (
        *("merge_framework_config", "get_vlm_model", "populate_layerwise_dit_cfg", "get_action_model"),
    ),
    f"{QWENPI} Qwen_PI._encode_vl_hidden_states": (
        "self.qwen_vl_interface.build_qwenvl_inputs",
        "self.qwen_vl_interface",
    ),
    f"{QWENPI} Qwen_PI.forward": ("self._encode_vl_hidden_states", "self.action_model"),
    f"{QWENPI} Qwen_PI.predict_action": (
        *("to_pil_preserve", "resize_images", "self._encode_vl_hidden_states", "self.action_model.predict_action"),
    ),
    f"{FRAMEWORK}/base_framework.py baseframework.from_pretrained": (
        *("read_mode_config", "dict_to_namespace", "build_framework", "torch.load"),
    ),
    f"{TRAIN} main": (
        *("wrap_config", "setup_directories", "build_framework", "prepare_data", "setup_optimizer_and_scheduler"),
        *("VLATrainer", "trainer.prepare_training", "trainer.train"),
    ),
    f"{TRAIN} VLATrainer.prepare_training": (
        *("set_seed", "self._init_checkpointing", "self.freeze_backbones", "self.print_trainable_parameters"),
        "self.setup_distributed_training",
    ),
    f"{TRAIN} VLATrainer.train": (
        *("self._get_next_batch", "self._train_step", "self.eval_action_model", "self._log_metrics"),
        *("self._save_checkpoint", "self._finalize_training"),
    ),
    f"{TRAIN} VLATrainer._train_step": (
        *("self.accelerator.accumulate", "self.optimizer.zero_grad", "self.model.forward", "self.accelerator.backward"),
        *("self.accelerator.clip_grad_norm_", "self.optimizer.step", "self.lr_scheduler.step"),
    ),
    f"{DATA} make_LeRobotSingleDataset": (
        *("data_config.modality_config", "data_config.transform", "data_config.make_dataset", "LeRobotSingleDataset"),
    ),
    f"{LEROBOT} LeRobotSingleDataset.get_step_data": ("self.get_trajectory_data", "self.get_data_by_modality"),
    f"{LEROBOT} LeRobotMixtureDataset.__getitem__": (
        *("self.sample_step", "dataset.get_step_data", "dataset.transforms", "dataset._pack_sample"),
    ),
}
STATEMENTS = {  # anchors that never changed in upstream's history: they stand in both, within the same function
    f"{HEAD} LayerwiseFlowmatchingActionHead.forward": (
        *("velocity = actions - noise", "pred_actions = pred[:, -actions.shape[1]:]", "return loss"),
    ),
    f"{HEAD} LayerwiseFlowmatchingActionHead.predict_action": (
        *("num_steps = self.num_inference_timesteps", "dt = 1.0 / num_steps", "return actions"),
        *("pred_velocity = pred[:, -self.action_horizon:]", "actions = actions + dt * pred_velocity"),
    ),
    f"{HEAD} LayerwiseFlowmatchingActionHead.__init__": ("self.config = action_config",),
    f"{QWENPI} Qwen_PI.forward": ("return {'action_loss': action_loss}",),
    f"{TRAIN} VLATrainer._train_step": (
        *("output_dict = self.model.forward(batch_vla)", "action_loss = output_dict['action_loss']"),
        *("total_loss = action_loss", "return {'action_dit_loss': action_loss.item()}"),
    ),
    f"{TRAIN} VLATrainer.train": ("step_metrics = self._train_step(batch_vla)",),
    f"{TRAIN} main": ("vla = build_framework(cfg)",),
}
LOCAL = {  # names that the seams and the overlay read
    f"{HEAD} LayerwiseFlowmatchingActionHead.forward": ("noisy_trajectory", "t", "pred_actions", "loss"),
    f"{HEAD} LayerwiseFlowmatchingActionHead.predict_action": ("actions", "t", "num_steps", "pred_velocity"),
    f"{LEROBOT} LeRobotSingleDataset.__init__": ("self.data_cfg", "self.modality_configs", "self.curr_traj_id"),
    f"{LEROBOT} LeRobotSingleDataset.get_step_data": ("self.curr_traj_data",),
}


@pytest.fixture(scope="module")
def own() -> Tree:
    return own_tree("starVLA")


@pytest.fixture(scope="module")
def real() -> Tree:
    return real_tree("starVLA")


def test_every_edit_stands_in_the_stand_in(own: Tree) -> None:
    check_edits(own, "starVLA")


@pytest.mark.upstream
def test_every_edit_stands_in_the_same_definition_of_the_real_tree(own: Tree, real: Tree) -> None:
    assert places(own, "starVLA") == places(real, "starVLA")


@pytest.mark.upstream
@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_have_the_same_parameters(name: str, own: Tree, real: Tree) -> None:
    real_ones = [each for each in parameters(Named(real, name).node) if each not in ADDED_LATER.get(name, [])]
    assert parameters(Named(own, name).node) == real_ones


@pytest.mark.parametrize("name", CALLS)
def test_functions_make_the_calls_that_seams_stand_between(name: str, own: Tree) -> None:
    assert first_calls(Named(own, name).node, CALLS[name]) == list(CALLS[name])


@pytest.mark.upstream
@pytest.mark.parametrize("name", CALLS)
def test_functions_make_their_calls_in_the_same_order(name: str, own: Tree, real: Tree) -> None:
    assert first_calls(Named(own, name).node, CALLS[name]) == first_calls(Named(real, name).node, CALLS[name])


def statements(tree: Tree, name: str) -> list[str]:
    return [ast.unparse(each) for each in ast.walk(Named(tree, name).node) if isinstance(each, ast.stmt)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_the_lasting_anchors_stand_in_the_stand_in(name: str, own: Tree) -> None:
    said = statements(own, name)
    assert [said.count(each) for each in STATEMENTS[name]] == [1] * len(STATEMENTS[name])


@pytest.mark.upstream
@pytest.mark.parametrize("name", STATEMENTS)
def test_the_lasting_anchors_stand_in_the_real_tree(name: str, real: Tree) -> None:
    said = statements(real, name)
    assert [said.count(each) for each in STATEMENTS[name]] == [1] * len(STATEMENTS[name])


def assigned(tree: Tree, name: str) -> set[str]:
    """What a function gives a value to, its parameters included."""
    node = Named(tree, name).node
    found = {each for each, _ in parameters(node)}
    for each in ast.walk(node):
        if isinstance(each, ast.Name | ast.Attribute) and isinstance(each.ctx, ast.Store):
            found.add(ast.unparse(each))
    return found


@pytest.mark.upstream
@pytest.mark.parametrize("name", LOCAL)
def test_names_that_seams_read_are_there(name: str, own: Tree, real: Tree) -> None:
    for tree in (own, real):
        assert set(LOCAL[name]) <= assigned(tree, name)


@pytest.mark.upstream
def test_a_framework_is_registered_under_the_same_names(own: Tree, real: Tree) -> None:
    def names(tree: Tree) -> set[str]:
        return {ast.unparse(each) for each in Named(tree, f"{QWENPI} Qwen_PI").node.decorator_list}

    assert names(own) == names(real) != set()


def defaults(tree: Tree) -> set[str]:
    """Every key of a dictionary in the module of Qwen_PI's defaults."""
    every = [each for each in ast.walk(module(tree, QWENPI)) if isinstance(each, ast.Dict)]
    return {key.value for each in every for key in each.keys if isinstance(key, ast.Constant)}


@pytest.mark.upstream
def test_the_stand_in_has_no_default_that_the_real_framework_lacks(own: Tree, real: Tree) -> None:
    assert {"base_vlm", "action_horizon", "diffusion_model_cfg"} <= defaults(own) <= defaults(real)


@pytest.mark.upstream
def test_both_have_the_same_packages_without_a_file(own: Tree, real: Tree) -> None:
    """Which folders are packages decides where an overlay's modules are found."""
    files = [path.relative_to(STANDIN) for package in PACKAGES for path in (STANDIN / package).rglob("*.py")]
    folders = {str(path.parent) for path in files}
    assert len(folders) > 10
    for folder in folders:
        assert (own.read(f"{folder}/__init__.py") is None) == (real.read(f"{folder}/__init__.py") is None), folder


def test_the_stand_in_offers_what_overlays_import(own: Tree) -> None:
    check_imports(own, OVERLAY, *PACKAGES)


@pytest.mark.upstream
def test_the_real_tree_offers_what_overlays_import(real: Tree) -> None:
    check_imports(real, OVERLAY, *PACKAGES)
