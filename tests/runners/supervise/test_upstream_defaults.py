"""upstreams.toml against the checkouts: every default is the upstream's own, read from its code."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from runners.supervise.families import Family, families, text

ROOT = Path(__file__).resolve().parents[3]
UPSTREAMS = ROOT / "upstreams"
FAMILIES = {family.name: family for family in families()}


def fields(path: Path, name: str) -> dict[str, Any]:
    """Default by field of a dataclass and of its bases in the same file; without those that are no constant."""
    classes = {node.name: node for node in ast.parse(path.read_text(encoding="utf-8")).body
               if isinstance(node, ast.ClassDef)}  # fmt: skip
    found: dict[str, Any] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= fields(path, base.id)
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            value: ast.expr | None = node.value
            if isinstance(value, ast.Call):  # field(default=...), Path("...")
                named = [keyword.value for keyword in value.keywords if keyword.arg == "default"]
                path_of = value.args[0] if isinstance(value.func, ast.Name) and value.func.id == "Path" else None
                value = named[0] if named else path_of
            if isinstance(value, (ast.Constant, ast.UnaryOp)):
                found[node.target.id] = ast.literal_eval(value)
    return found


@cache
def upstream(*parts: str) -> Path:
    path = UPSTREAMS.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there: run `python apply.py {parts[0]}`")
    return path


def said(family: Family) -> dict[str, str]:
    """Every default of a row by upstream's own key."""
    return {**{family.settings[role]: value for role, value in family.defaults.items()}, **family.keys}


def same(ours: str, theirs: Any) -> bool:
    try:
        return float(ours) == float(theirs)
    except (TypeError, ValueError):
        return ours == text(theirs)


def agrees(family: Family, theirs: dict[str, Any], prefix: str = "") -> set[str]:
    """The keys that were compared; fails where one differs."""
    compared = {key for key in said(family) if key.startswith(prefix) and key.removeprefix(prefix) in theirs}
    odd = {key: (said(family)[key], theirs[key.removeprefix(prefix)]) for key in compared
           if not same(said(family)[key], theirs[key.removeprefix(prefix)])}  # fmt: skip
    assert not odd, f"{family.name}: (ours, upstream's) {odd}"
    return compared


@pytest.mark.upstream
def test_openvla_fine_tuning() -> None:
    family = FAMILIES["openvla fine-tuning"]
    theirs = fields(upstream("openvla", "vla-scripts", "finetune.py"), "FinetuneConfig")
    assert agrees(family, theirs) == set(said(family))
    assert set(family.settings.values()) <= set(theirs)


@pytest.mark.upstream
def test_openvla_training_and_its_variants() -> None:
    family = FAMILIES["openvla training"]
    compared = agrees(family, fields(upstream("openvla", "vla-scripts", "train.py"), "TrainConfig"))
    path = upstream("openvla", "prismatic", "conf", "vla.py")
    names = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body
             if isinstance(node, ast.ClassDef) and node.name.startswith("Exp_")}  # fmt: skip
    types = {fields(path, name)["vla_id"]: fields(path, name) for name in names}
    for name, theirs in types.items():
        compared |= agrees(family, theirs, "vla.")
        ours = family.variants.get(name, family.variants[""])
        assert {key: theirs[key.removeprefix("vla.")] for key in ours} == ours, name
    assert compared == set(said(family)) - {"vla.type"}
    assert said(family)["vla.type"] in types
    registered = upstream("openvla", "vla-scripts", "train.py").read_text(encoding="utf-8")
    assert "VLARegistry.DINOSIGLIP_224PX_MX_OXE_MAGIC_SOUP_PLUS.vla_id" in registered
    assert types[said(family)["vla.type"]]["data_mix"].startswith("oxe_magic_soup_plus")


@pytest.mark.upstream
def test_llama_factory_and_transformers() -> None:
    family = FAMILIES["LLaMA-Factory"]
    checkout = upstream("LLaMA-Factory", "src", "llamafactory", "hparams")
    site = next((ROOT / ".venvs" / "LLaMA-Factory" / "lib").glob("python3*/site-packages/transformers"), None)
    if site is None:
        pytest.skip("transformers is not in .venvs/LLaMA-Factory: run `make test`")
    theirs = fields(site / "training_args.py", "TrainingArguments")
    for file in ("training_args.py", "finetuning_args.py"):
        for node in ast.parse((checkout / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                theirs |= fields(checkout / file, node.name)
    assert theirs["output_dir"] is None
    assert 'self.output_dir = "trainer_output"' in (site / "training_args.py").read_text(encoding="utf-8")
    theirs["output_dir"] = "trainer_output"
    assert agrees(family, theirs) == set(said(family))
    assert set(family.settings.values()) <= set(theirs)
    assert theirs["max_steps"] == -1
    assert theirs["save_only_model"] is theirs["overwrite_output_dir"] is False


@pytest.mark.upstream
def test_libero() -> None:
    family = FAMILIES["LIBERO lifelong learning"]
    configs = upstream("LIBERO", "libero", "configs")

    def read(name: str) -> dict[str, Any]:
        return dict(yaml.safe_load((configs / name).read_text(encoding="utf-8")))

    theirs: dict[str, Any] = read("config.yaml")
    for group, name in (
        *(("train", "default"), ("eval", "default"), ("data", "default"), ("lifelong", "base")),
        ("policy", "bc_transformer_policy"),
    ):
        assert {group: name} in theirs["defaults"]
        theirs |= {f"{group}.{key}": value for key, value in read(f"{group}/{name}.yaml").items()}
    theirs["train.optimizer.kwargs.lr"] = read("train/optimizer/adam_w.yaml")["kwargs"]["lr"]
    assert agrees(family, theirs) == set(said(family))


@pytest.mark.upstream
def test_evaluations() -> None:
    family = FAMILIES["openvla evaluation on LIBERO"]
    path = upstream("openvla", "experiments", "robot", "libero", "run_libero_eval.py")
    assert agrees(family, fields(path, "GenerateConfig")) == set(said(family))
    family = FAMILIES["starVLA evaluation on LIBERO"]
    args = fields(upstream("starVLA", "examples", "LIBERO", "eval_files", "eval_libero.py"), "Args")
    theirs = {f"args.{key.replace('_', '-')}": value for key, value in args.items()}
    assert agrees(family, theirs) == set(said(family))


@pytest.mark.upstream
def test_starvla_reads_the_keys_and_the_default_file() -> None:
    family = FAMILIES["starVLA training"]
    script = upstream("starVLA", "starVLA", "training", "train_starvla.py").read_text(encoding="utf-8")
    assert f'default="{family.config_default}"' in script
    config = yaml.safe_load(upstream("starVLA", family.config_default).read_text(encoding="utf-8"))
    for role, key in family.settings.items():
        value: Any = config
        for part in () if key.startswith("$") else key.split("."):
            value = value[part]
        assert value is not None, role
    # What decides that accumulation is accelerate's variable: the configuration's own key is not looked at.
    assert "trainer.gradient_accumulation_steps" not in script
    assert "DeepSpeedPlugin()" in script


@pytest.mark.upstream
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_scripts_are_there(family: Family) -> None:
    for end in family.match.get("scripts", ()):
        found = [path for name in ("LLaMA-Factory", "openvla", "starVLA", "LIBERO")
                 for path in upstream(name).rglob(Path(end).name) if str(path).endswith(f"/{end}")]  # fmt: skip
        assert found, end
