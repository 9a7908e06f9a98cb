"""What can be known to fail before hours have gone by, each refused by the option that mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.hub import downloaded, fetching
from runners.libero_assets import Unusable, missing_assets
from runners.openvla_checkpoint import NoCheckpoint, config_statistics, require_suite, statistics_of
from runners.openvla_plan import Plan
from runners.places import Places, Refused
from runners.room import refuse_below


def folder(path: str, option: str, remedy: str) -> Path:
    """The absolute path of a folder that has to be there.

    Raises Refused.
    """
    found = Path(path).expanduser().absolute()
    if not found.is_dir():
        raise Refused(f"{found} is not there: {remedy}, or name another with {option}")
    return found


def check(plan: Plan, places: Places) -> None:
    """What can be known to fail before hours have gone by.

    Raises Refused.
    """
    if not Path(plan.python).is_file():
        raise Refused(
            f"{plan.python} is not there: build the environment of openvla (`python apply.py doctor openvla` has the "
            "commands), or name its interpreter with --python"
        )
    if plan.data_root is None:
        raise Refused("where are the RLDS data sets? Name their folder with --data-root or GRAFT_DATA_ROOT")
    folder(str(plan.data_root / plan.dataset_name), "--data-root and --dataset-name", "fetch the data set")
    if plan.probe_jsonl is None:
        folder(str(plan.data_root / plan.probe_dataset), "--probe-dataset", "fetch the data set")
    for path in (*plan.statistics, *(p for p in (plan.probe_jsonl, plan.probe_images) if p)):
        if not path.exists():
            raise Refused(f"{path} is not there")
    model = plan.local_model()
    if model is None and plan.vla_path.startswith(("/", ".", "~")):
        raise Refused(f"{plan.vla_path} is not there: name a folder or a model on the hub with --vla-path")
    if model is None and plan.statistics:
        raise Refused("--statistics needs a model in a folder: fetch it first and name the folder with --vla-path")
    if model is not None:
        try:
            config_statistics(model)
        except NoCheckpoint as error:
            raise Refused(str(error)) from None
    written = {"--work": None if plan.size is None else plan.size * len(plan.arms) * len(plan.seeds)}
    refuse_below(places, written if plan.size is not None else {**written, "--hf-home": None})


def refuse_guard_of_new_task(plan: Plan) -> None:
    """The input guard keeps what the probe set shows; of the task that is to be learnt it keeps next to nothing old.

    Raises Refused where an arm has the guard and the probe set is of the data that is trained on.
    """
    arms = [arm.name for arm in plan.arms if "input_guard" in arm.surgery]
    if arms and plan.probe_jsonl is None and _same_data(plan):
        raise Refused(
            f"--arms {', '.join(arms)}: the probe set would be of {plan.probe_dataset}, which is trained on, and the "
            "guard would hold LoRA off the new task and nothing else: give what must not be forgotten with "
            "--probe-dataset NAME or --probe-jsonl FILE --probe-images DIR, leave the arm out, or say that it is meant "
            "with --guard-new-task"
        )


def _same_data(plan: Plan) -> bool:
    """Whether both names are one folder, or one suite with and without frames in which nothing moves."""
    names = (plan.probe_dataset, plan.dataset_name)
    if len({name.removesuffix("_no_noops") for name in names}) == 1:
        return True
    return plan.data_root is not None and len({(plan.data_root / name).resolve() for name in names}) == 1


def check_evaluation(plan: Plan, places: Places) -> None:
    """Suites need action statistics, and each of LIBERO's tasks one of its largest files, which a mirror may lack.

    Raises Refused.
    """
    try:
        _check_statistics(plan, places)
    except NoCheckpoint as error:
        raise Refused(str(error)) from None
    try:
        missing = missing_assets(plan.libero)
    except Unusable:
        # Not a checkout of LIBERO's own layout: whether it runs will be seen.
        return
    if missing and not plan.asset_standins:
        raise Refused(
            f"{plan.libero} lacks {len(missing)} of its assets, such as {missing[0]}, so no task would load: fetch it "
            "from a place that has them, let plain shapes stand in with --asset-standins, or leave out the evaluation "
            "with --stages"
        )


def _check_statistics(plan: Plan, places: Places) -> None:
    general = [suite for suite in plan.general_suites if suite not in plan.general_commands]
    trained = {plan.suite, f"{plan.suite}_no_noops"} & {plan.dataset_name}
    asked = general if trained else [plan.suite, *general]
    if asked:
        known, place = _statistics(plan, places, asked)
        for suite in asked:
            require_suite(suite, known, place)


def _statistics(plan: Plan, places: Places, asked: list[str]) -> tuple[dict[str, Any], Path]:
    """The action statistics that the model has before fine-tuning, and where they were read."""
    if (model := plan.local_model()) is not None:
        return statistics_of(model, plan.statistics), model
    if (snapshot := downloaded(plan.vla_path, places.hub)) is None:
        raise NoCheckpoint(
            f"{plan.vla_path} is not in {places.hub}, so nobody knows whether its config.json has action statistics "
            f"(norm_stats) for {', '.join(asked)}: fetch the model first "
            f"(`{fetching(plan.vla_path, places, plan.python)}`), or name its folder with --vla-path"
        )
    # By a name on the hub upstream reads no dataset_statistics.json.
    return config_statistics(snapshot), snapshot
