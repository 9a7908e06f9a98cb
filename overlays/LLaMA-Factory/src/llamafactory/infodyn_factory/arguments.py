"""The switches of information dynamics, and what they cannot be combined with."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import logging
from ..infodyn import probe_options
from ..infodyn.probe import ActivationProbe
from ..infodyn.schedule_config import ScheduleConfig
from .refusals import memory_refusals, probe_refusals, refuse, schedule_refusals, strategy_of

if TYPE_CHECKING:
    from transformers import Seq2SeqTrainingArguments

    from ..hparams import DataArguments, FinetuningArguments, ModelArguments

logger = logging.get_logger(__name__)

ROUTERS = ("linear", "gaussian")


@dataclass
class InfodynArguments:
    """Switches of dynamic schedules, activation probes and Gaussian routing; all off by default."""

    dynamic_schedule: bool = field(
        default=False,
        metadata={"help": "Let evaluations decide which data set of `dataset` the next steps are drawn from."},
    )
    schedule: dict | str | None = field(
        default=None,
        metadata={"help": "Options of the schedule (docs/methods/infodyn.md): a mapping, JSON, or such a file."},
    )
    probes: dict | str | None = field(
        default=None,
        metadata={"help": "Activation probes at evaluation: a mapping with a list `probes`, JSON, or such a file."},
    )
    moe_router: str = field(
        default="linear",
        metadata={"help": "Router of mixture-of-experts layers: `linear` (the model's own) or `gaussian`."},
    )


@dataclass(frozen=True)
class ScheduleOptions:
    """What ``schedule`` holds beside the options of ``ScheduleConfig``.

    Attributes:
        chunk_steps: optimizer steps on one task before the next choice.
        surprise_samples: validation samples of each task whose gradient is the surprise.
        pi_alpha: scale in the exponent of predictive integrity.
        pi_gamma: weight of the surprise in it.
        routing_memory: weight of the historical routing loss; 0 without. The method's authors use 0.1.
    """

    chunk_steps: int = 50
    surprise_samples: int = 8
    pi_alpha: float = 1.0
    pi_gamma: float = 0.5
    routing_memory: float = 0.0

    def __post_init__(self) -> None:
        for name in ("chunk_steps", "surprise_samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`schedule`: {name} must be a whole number of at least 1, got {value!r}.")

        for name, most in (("pi_alpha", None), ("pi_gamma", 1), ("routing_memory", None)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"`schedule`: {name} must be a finite number of at least 0, got {value!r}.")

            if most is not None and value > most:
                raise ValueError(f"`schedule`: {name} must be at most {most}, got {value!r}.")


def as_mapping(name: str, given: Any) -> dict[str, Any]:
    """A switch's value as a mapping; a file may use all of OmegaConf's YAML.

    Raises:
        ValueError: neither a mapping, nor JSON, nor a file that holds one.
    """

    def load(path: Path) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.to_container(OmegaConf.load(path))

    return probe_options.as_mapping(name, given, load)


def schedule_options(
    finetuning_args: "InfodynArguments", data_args: "DataArguments", training_args: "Seq2SeqTrainingArguments"
) -> tuple[ScheduleConfig, ScheduleOptions]:
    """The scheduler's configuration and the glue's own options.

    Raises:
        ValueError: an option that does not exist or is out of range.
    """
    given = as_mapping("schedule", finetuning_args.schedule)
    own = {option.name: given.pop(option.name) for option in fields(ScheduleOptions) if option.name in given}
    options = ScheduleOptions(**own)
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    try:
        config = ScheduleConfig.of(tuple(data_args.dataset), {"seed": seed, **given})
    except ValueError as error:
        raise ValueError(f"`schedule`: {error} Options of the runs themselves: {', '.join(_own_names())}.") from error

    return config, options


def _own_names() -> list[str]:
    return [option.name for option in fields(ScheduleOptions)]


def resolve_infodyn(
    model_args: "ModelArguments",
    data_args: "DataArguments",
    training_args: "Seq2SeqTrainingArguments",
    finetuning_args: "FinetuningArguments",
) -> None:
    """Check the switches before anything is loaded, and have the data side keep sources. Off: nothing happens.

    Raises:
        ValueError: a value out of range, or a combination in which the method could not do its work.
    """
    if finetuning_args.moe_router not in ROUTERS:
        raise ValueError(f"`moe_router` must be one of {', '.join(ROUTERS)}, got {finetuning_args.moe_router!r}.")

    if finetuning_args.probes is not None:
        specs, given = probe_options.split_options(as_mapping("probes", finetuning_args.probes))
        ActivationProbe(specs, training_args.output_dir, "validation", **given)  # refuses what cannot be meant
        refuse("probes", probe_refusals(data_args, training_args, finetuning_args))

    if finetuning_args.dynamic_schedule and not training_args.do_train:
        return  # only training has a schedule

    if not finetuning_args.dynamic_schedule:
        if finetuning_args.schedule is not None:
            raise ValueError("`schedule` has options, but `dynamic_schedule` is off: set it, or remove `schedule`.")

        return

    refuse("dynamic_schedule", schedule_refusals(model_args, data_args, training_args, finetuning_args))
    _, options = schedule_options(finetuning_args, data_args, training_args)
    if options.routing_memory > 0:
        refuse("schedule: routing_memory", memory_refusals(model_args, finetuning_args))

    steps = getattr(training_args, "eval_steps", None)
    if strategy_of(training_args) == "steps" and steps is not None and steps > options.chunk_steps:
        logger.warning_rank0(
            f"`eval_steps: {steps}` is more than the schedule's chunk of {options.chunk_steps} steps: choices in "
            "between are made from the same evaluation. `eval_strategy: epoch` evaluates after every chunk."
        )

    data_args.name_sources = True
