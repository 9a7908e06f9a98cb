"""Probes at a Trainer's evaluations: each evaluation set has files of its own, whatever it is called."""

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.infodyn.module_paths import ProbeError  # noqa: E402
from llamafactory.infodyn.probe_file import probe_files, read_probe_file  # noqa: E402
from llamafactory.infodyn_factory.probes import TrainerProbes  # noqa: E402
from llamafactory.infodyn_factory.trainer import InfodynMixin  # noqa: E402
from torch import nn  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

SPEC = {"name": "p", "source_modules": ["source"], "target_modules": ["target"]}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Identity(), nn.Linear(2, 2)

    def forward(self, x, labels=None):
        out = self.target(self.source(x))
        return {"loss": out.sum(), "logits": out}


class ProbedTrainer(InfodynMixin, Trainer):
    infodyn_schedule = infodyn_probes = None


def rows(first, count=6):
    return [{"x": torch.tensor([float(first + i), 1.0]), "labels": torch.tensor(0)} for i in range(count)]


def trainer(folder, sets):
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, per_device_eval_batch_size=4, report_to="none", disable_tqdm=True,
        eval_strategy="epoch", remove_unused_columns=False,
    )  # fmt: skip
    made = ProbedTrainer(model=Model(), args=arguments, train_dataset=rows(0), eval_dataset=sets)
    made.infodyn_probes = TrainerProbes(made, {"probes": [SPEC], "validation_subset_size": 6})
    return made


def kept(folder, name):
    (_, path), = probe_files(folder, name)  # fmt: skip
    content = read_probe_file(path)
    return content["metadata"]["dataset_name"], content["source_activations"]["source"][:, 0].tolist()


def numbers(first):
    return [float(first + i) for i in range(6)]


@pytest.mark.parametrize("own", [False, True])
def test_the_names_of_data_sets_become_folders(tmp_path, own):
    """Evaluated by name, as the Trainer does, or given as the sets themselves."""
    folders = {"plain-1.0": "plain-1.0", "数据": "%E6%95%B0%E6%8D%AE", "REMOTE:u/r": "REMOTE%3Au%2Fr", "~a%": "%7Ea%25"}
    sets = {name: rows(10 * i) for i, name in enumerate(folders)}
    made = trainer(tmp_path, sets)
    made.evaluate(*([dict(reversed(sets.items()))] if own else []))
    assert sorted(each.name for each in (tmp_path / "probes").iterdir()) == sorted(f"p.{f}" for f in folders.values())
    for i, (name, folder) in enumerate(folders.items()):
        assert kept(tmp_path, f"p.{folder}") == (name, numbers(10 * i))


def test_one_set_needs_no_name(tmp_path):
    trainer(tmp_path, rows(10)).evaluate()
    assert kept(tmp_path, "p") == ("validation", numbers(10))


@pytest.mark.parametrize("sets", [rows(10), {"a": rows(10), "b": rows(20)}])
@pytest.mark.parametrize("foreign", [rows(30), {"a": rows(30), "b": rows(40)}])
def test_another_data_set_is_no_sets_file(tmp_path, sets, foreign):
    made = trainer(tmp_path, sets)
    with pytest.raises(ProbeError, match="none of the run's own"):
        made.evaluate(foreign)
    assert not (tmp_path / "probes").exists()
