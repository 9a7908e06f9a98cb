"""The stand-in for openvla has the real one's seams: the same edits match in the same definitions, what surrounds them
agrees. Both trees are parsed; no upstream code is run.

The half that needs the real tree is marked ``upstream`` and reads the pinned commit from whatever repository has it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.git import run
from graft.history import find
from graft.lock import Lock
from graft.pack import Pack, load_pack
from graft.rewrite import Outcome, State, rewrite
from graft.tree import CommitTree, Tree, WorkTree
from tests.standins.openvla_project import OVERLAY, REPOSITORY, STANDIN, packs
from tests.standins.used import real as used_real
from tests.standins.used import stands_in

HF, SCRIPTS, ROBOT = "prismatic/extern/hf", "vla-scripts", "experiments/robot"
STRATEGIES, DATA = "prismatic/training/strategies", "prismatic/vla/datasets"
PROMPTING = "prismatic/models/backbones/llm/prompting"

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
    *(
        f"{STRATEGIES}/fsdp.py FSDPStrategy.{name}"
        for name in ("__init__", "save_checkpoint", "run_setup", "clip_grad_norm")
    ),
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
    files = [path.relative_to(STANDIN).as_posix() for path in sorted(STANDIN.rglob("*.py"))]
    return WorkTree(STANDIN, files, {})


@pytest.fixture(scope="module")
def real() -> Tree:
    """The real openvla at the pin, from its checkout or from a mirror of its history."""
    (pinned,) = Lock.load(REPOSITORY).select(["openvla"])
    places = [REPOSITORY / pinned.path]
    try:
        with find(pinned, REPOSITORY) as history:
            places.append(Path(history.git_dir))
    except GraftError as error:
        reason = str(error).splitlines()[0]
    else:
        reason = "no repository here has the pinned commit"
    for place in places:
        inside = (place / ".git").exists() or (place / "HEAD").is_file()
        if inside and run(["cat-file", "-e", f"{pinned.commit}^{{commit}}"], cwd=place).code == 0:
            used_real("openvla", f"{pinned.commit[:10]} from {place}")
            return CommitTree(place, pinned.commit)
    stands_in("openvla", f"its conformance was not looked at: {reason}")
    pytest.skip(f"openvla: {reason}")


def loaded() -> list[Pack]:
    return [load_pack(REPOSITORY, "openvla", name)[0] for name in packs()]


def outcomes(tree: Tree) -> list[Outcome]:
    made = rewrite(tree, loaded())
    assert [str(problem) for problem in made.failures] == []
    return made.outcomes


def test_every_edit_stands_in_the_stand_in(own: Tree) -> None:
    found = outcomes(own)
    assert len(found) == sum(len(list(pack.each())) for pack in loaded()) > 0
    assert {outcome.state for outcome in found} == {State.APPLIED}
    assert [outcome.moved_from for outcome in found if outcome.moved_from] == []


@pytest.mark.upstream
def test_every_edit_stands_in_the_same_definition_of_the_real_tree(own: Tree, real: Tree) -> None:
    def places(tree: Tree) -> list[tuple[str, str, str, str, str | None]]:
        return [(o.pack, o.verb, o.anchor, o.path, o.definition) for o in outcomes(tree)]

    assert places(own) == places(real)


@dataclass(frozen=True)
class Named:
    """A definition in a tree, by "path qualified.name"."""

    tree: Tree
    name: str

    @property
    def node(self) -> ast.FunctionDef | ast.ClassDef:
        path, _, qualified = self.name.partition(" ")
        scope: ast.AST = module(self.tree, path)
        for part in qualified.split("."):
            found = [
                each
                for each in ast.iter_child_nodes(scope)
                if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == part
            ]
            assert found, f"{self.name} is not there"
            scope = found[-1]
        assert isinstance(scope, ast.FunctionDef | ast.ClassDef)
        return scope


def module(tree: Tree, path: str) -> ast.Module:
    content = tree.read(path)
    assert content is not None, f"there is no {path}"
    return ast.parse(content)


def parameters(node: ast.AST) -> list[tuple[str, str]]:
    """Names and defaults in order; ``*args`` and ``**kwargs`` by their kind."""
    assert isinstance(node, ast.FunctionDef)
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    missing = [None] * (len(plain) - len(given.defaults))
    pairs = [
        *zip(plain, [*missing, *given.defaults], strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]
    found = [(each.arg, ast.unparse(value) if value else "") for each, value in pairs]
    return found + [(kind, "") for kind, each in (("*", given.vararg), ("**", given.kwarg)) if each]


def fields(node: ast.AST) -> dict[str, str]:
    assert isinstance(node, ast.ClassDef)
    return {
        each.target.id: ast.unparse(each.value) if each.value else ""
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def first_calls(node: ast.AST, wanted: tuple[str, ...]) -> list[str]:
    """Of the calls wanted, each once, in the order in which they first stand."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    calls.sort(key=lambda each: (each.lineno, each.col_offset))
    return list(dict.fromkeys(name for each in calls if (name := ast.unparse(each.func)) in wanted))


def formatted(tree: Tree, path: str) -> set[str]:
    return {ast.unparse(each) for each in ast.walk(module(tree, path)) if isinstance(each, ast.JoinedStr)}


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


def imports_of_overlays() -> Iterator[tuple[str, str]]:
    """What overlay files import from upstream's own packages: module and name."""
    for path in sorted(OVERLAY.rglob("*.py")):
        for each in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(each, ast.ImportFrom) and each.module and each.level == 0:
                top = each.module.split(".")[0]
                if top in ("prismatic", "experiments"):
                    yield from ((each.module, alias.name) for alias in each.names)


def offers(tree: Tree, imported: str, name: str) -> bool:
    """Whether a module of the tree defines, imports or is a package of that name; the overlay's own modules count."""
    base = imported.replace(".", "/")
    if (OVERLAY / f"{base}.py").is_file() or (OVERLAY / base / f"{name}.py").is_file():
        return True
    content = tree.read(f"{base}.py")
    content = tree.read(f"{base}/__init__.py") if content is None else content
    if content is None:
        return False
    known: set[str] = set()
    for each in ast.parse(content).body:
        if isinstance(each, ast.ImportFrom | ast.Import):
            known |= {alias.asname or alias.name for alias in each.names}
        elif isinstance(each, ast.FunctionDef | ast.ClassDef):
            known.add(each.name)
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            known |= {target.id for target in targets if isinstance(target, ast.Name)}
    return name in known or tree.read(f"{base}/{name}.py") is not None


def test_the_stand_in_offers_what_overlays_import(own: Tree) -> None:
    wanted = sorted(set(imports_of_overlays()))
    assert wanted
    assert [each for each in wanted if not offers(own, *each)] == []


@pytest.mark.upstream
def test_the_real_tree_offers_what_overlays_import(real: Tree) -> None:
    assert [each for each in sorted(set(imports_of_overlays())) if not offers(real, *each)] == []
