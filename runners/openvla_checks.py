"""What can be known to fail before hours have gone by, each refused by the option that mends it."""

from __future__ import annotations

from pathlib import Path

from runners.libero_assets import Unusable, missing_assets
from runners.openvla_checkpoint import NoCheckpoint, downloaded, require_suite, statistics_of
from runners.openvla_plan import Plan
from runners.places import Places, Refused, refuse_below, size_of


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
    for path in (*plan.statistics, *(p for p in (plan.probe_jsonl, plan.probe_images) if p)):
        if not path.exists():
            raise Refused(f"{path} is not there")
    model = plan.local_model()
    if model is None and plan.vla_path.startswith(("/", ".", "~")):
        raise Refused(f"{plan.vla_path} is not there: name a folder or a model on the hub with --vla-path")
    if model is None and plan.statistics:
        raise Refused("--statistics needs a model in a folder: fetch it first and name the folder with --vla-path")
    known = model or downloaded(plan.vla_path, places.hf_home)
    if known is not None:
        for suite in plan.general_suites:
            if suite in plan.general_commands:
                continue
            try:
                require_suite(suite, statistics_of(known, plan.statistics), known)
            except NoCheckpoint as error:
                raise Refused(str(error)) from None
    each = None if model is None else size_of(model)
    written = {"--work": None if each is None else each * len(plan.arms) * len(plan.seeds)}
    refuse_below(places, written if model is not None else {**written, "--hf-home": None})


def check_assets(plan: Plan) -> None:
    """Each of LIBERO's tasks names one of its largest files, which a mirror may lack.

    Raises Refused.
    """
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
