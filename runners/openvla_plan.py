"""What a comparison is made of: one plan, from which every stage's command and place follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runners.openvla_arms import Arm

HERE = Path(__file__).resolve().parent
KINDS = ("probe", "icsm", "baseline", "method", "eval", "report")

OWNED = {
    "probe": {"out": "--work", "n": "--probe-n", "data_root_dir": "--data-root", "dataset_name": "--probe-dataset"}
    | {"jsonl": "--probe-jsonl", "images": "--probe-images"},
    "icsm": {"vla_path": "--vla-path", "probe": "--work", "out": "--work", "rank_by": "--arms"},
    "finetune": {"vla_path": "--vla-path", "data_root_dir": "--data-root", "dataset_name": "--dataset-name"}
    | {"run_root_dir": "--work", "adapter_tmp_dir": "--work", "max_steps": "--max-steps", "save_steps": "--max-steps"}
    | {"save_latest_checkpoint_only": "--work", "image_aug": "--no-image-aug", "run_id_note": "--arms, --seeds"},
    "surgery": {"enabled": "--arms", "subspace_dir": "--work", "probe_dir": "--work", "seed": "--seeds"}
    | {"hsw": "--arms", "thermostat.enabled": "--arms", "input_guard": "--arms"},
    "eval": {"pretrained_checkpoint": "--work", "task_suite_name": "--suite", "local_log_dir": "--work"}
    | {"num_trials_per_task": "--num-trials", "num_tasks": "--num-tasks", "center_crop": "--no-image-aug"}
    | {"model_family": "always openvla", "run_id_note": "--arms, --seeds", "resume_results": "the same command again"},
}
"""Options of the native commands that the runner sets itself, and by which of its own."""


@dataclass(frozen=True)
class Plan:
    """Everything that the stages depend on. `python` is the interpreter of the openvla environment."""

    home: Path
    checkout: Path
    libero: Path
    python: str
    vla_path: str
    dataset_name: str
    data_root: Path | None
    suite: str
    general_suites: Sequence[str]
    general_commands: Mapping[str, str]
    """General suites that are not LIBERO's: the command that measures each, with {checkpoint} and {results} in it."""
    arms: Sequence[Arm]
    seeds: Sequence[int]
    max_steps: int
    learning_rate: float
    """The common one, `--set finetune.learning_rate`; an arm may have a factor on it."""
    probe_dataset: str
    cpu: bool = False
    nproc: int = 1
    size: int | None = None
    """Bytes of the model, as far as they are known: a run leaves one checkpoint of this size."""
    probe_n: int = 500
    probe_jsonl: Path | None = None
    probe_images: Path | None = None
    num_tasks: int | None = None
    num_trials: int = 50
    image_aug: bool = True
    asset_standins: bool = False
    statistics: Sequence[Path] = ()
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further options of the native commands by group: probe, icsm, finetune, surgery, eval."""
    state: Mapping[str, str] = field(default_factory=dict)
    """What all stages depend on beside files: the checkout's state, the environment's versions."""
    eval_state: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    eval_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def probe(self) -> Path:
        return self.home / "probe" / "set"

    def subspaces(self, rank_by: str) -> Path:
        return self.home / "icsm" / rank_by / f"icms_{rank_by}"

    def runs(self, arm: str, seed: int) -> Path:
        """The `run_root_dir` of one training run: upstream makes one folder in it."""
        return self.home / "train" / arm / f"seed{seed}" / "runs"

    def rate(self, arm: Arm) -> str:
        """The learning rate that `arm` trains with, as the native command is given it."""
        return f"{self.learning_rate * arm.rate:.12g}"

    def evaluation(self, arm: str, seed: int | None, suite: str) -> Path:
        """The folder of one evaluation; `before` is the arm of the model before fine-tuning."""
        return self.home / "eval" / arm / ("" if seed is None else f"seed{seed}") / suite

    @property
    def assets(self) -> Path:
        """The LIBERO package with stand-ins for missing assets."""
        return self.home / "assets" / "package"

    def paths(self) -> dict[str, str]:
        folders = [self.checkout, *([self.assets] if self.asset_standins else []), self.libero]
        return {"PYTHONPATH": ":".join(map(str, folders))}

    def local_model(self) -> Path | None:
        """The model's folder, or None for a name on the hub."""
        path = Path(self.vla_path)
        return path if path.is_dir() else None

    def model_input(self) -> dict[str, Path]:
        local = self.local_model()
        return {} if local is None else {"model": local}

    def script(self, name: str, seed: int | None = None, *, ranks: bool = False) -> list[str]:
        """The command that runs the checkout's script `name`: with --cpu on the processor, `ranks` through torchrun."""
        seeded = [] if seed is None else [str(HERE / "seeded.py"), str(seed)]
        cpu = [str(HERE / "openvla_on_cpu.py")] if self.cpu else []
        torchrun: list[str] = []
        if ranks and (self.nproc > 1 or not self.cpu):
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nnodes", "1"]
            torchrun += ["--nproc-per-node", str(self.nproc)]
        return [self.python, *torchrun, *seeded, *cpu, str(self.checkout / name)]
