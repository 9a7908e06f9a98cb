"""Samples of starVLA's LeRobot data sets with the frame after some actions, and on demand the one before them.

``next_frame(LeRobotSingleDataset)`` is for the ``make_dataset`` hook of a data configuration, and ``with_next_frame``
gives a configuration that hook. A sample gains, beside what upstream puts there (every key only where it can be had):

image_tk      the pictures after ``offset_tk`` actions, as ``image``; past the episode's end those of its last step
valid_tk      1.0, or 0.0 where the episode ends before
offset_tk     how many actions lie between: ``datasets.vla_data.future_offset``, one number or several to draw from;
              every number from 1 to the chunk's length where nothing is said
state_tk      the state then, as ``state``
depth, intrinsics, camera_pose, named_mask     lists, one array a view, of the columns in columns.py; ``..._tk`` then
contact       1.0 where the gripper touches something at ``offset_tk``, else 0.0

and with ``datasets.vla_data.past_offset``, one number or several, the same with ``_tp`` for the frame ``offset_tp``
actions before (``valid_tp`` 0.0 where the episode had not begun), besides ``action_tp``, the chunk that began there: it
is what feedback tokens tell of.

Offsets are drawn anew at each reading, from torch's seed (the run's; in a worker of a DataLoader, the worker's) and how
often the data set was read there: a run with the same seed and as many workers draws the same.

Transforms see the frames of a step as one video, so that a random crop is the same in all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from . import columns

EXTRA = "_sagr"
"""Where ``get_step_data`` leaves for ``_pack_sample`` what no transform is to see."""


def offsets_of(value: Any, horizon: int, key: str) -> tuple[int, ...]:
    """The offsets that a configuration asks for: one number or several.

    Raises ValueError naming the key and what may stand there.
    """
    given = [value] if isinstance(value, int) else list(value)
    if not given or not all(type(each) is int and 1 <= each <= horizon for each in given):
        raise ValueError(
            f"datasets.vla_data.{key} is {value}: whole numbers from 1 to {horizon}, the length of an action chunk, "
            "are possible (the world predictor sees no more actions than that)"
        )
    return tuple(given)


@functools.cache
def next_frame(dataset_class: type) -> type:
    """A subclass of ``LeRobotSingleDataset``, or of a subclass of it, whose samples have the keys above; one of each.

    Its data sets can be pickled, as workers of a DataLoader need that are not forked.
    Its constructor raises ValueError for offsets that do not fit the chunk, and for columns that cannot be read.
    """

    class NextFrame(dataset_class):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            horizon = len(self.modality_configs["action"].delta_indices)
            settings = self.data_cfg if self.data_cfg is not None else {}
            future, past = settings.get("future_offset", None), settings.get("past_offset", None)
            future = range(1, horizon + 1) if future is None else future
            self.future_offsets = offsets_of(future, horizon, "future_offset")
            self.past_offsets = () if past is None else offsets_of(past, horizon, "past_offset")
            self.readings = 0
            first = self.trajectory_ids[0]
            views = [key.removeprefix("video.") for key in self.modality_keys["video"]]
            try:
                self.geometry_columns = columns.found(self.get_trajectory_data(first), views)
                # The mixture takes another step where one fails, so a bad column has to be seen here.
                columns.read(self.get_trajectory_data(first), 0, self.geometry_columns)
            except ValueError as error:
                raise ValueError(f"data set {self.dataset_name}, episode {first}: {error}") from error

        def __reduce_ex__(self, protocol: Any) -> Any:
            reduced = super().__reduce_ex__(protocol)
            if type(self) is not NextFrame:
                return reduced
            # This class stands in no module: whoever reads the pickle makes it anew from the one that does.
            return (_unmade, (dataset_class,), *reduced[2:])

        def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
            """Upstream's data of the step with the other frames behind its own along the first axis."""
            length = int(self.trajectory_lengths[self.get_trajectory_index(trajectory_id)])
            now = int(base_index)
            # Of a generator of its own: what transforms and the head draw stays as it is without this.
            draw = np.random.default_rng([torch.initial_seed(), int(trajectory_id), now, self.readings])
            self.readings += 1
            steps = {"": now, "_tk": now + int(draw.choice(self.future_offsets))}
            if self.past_offsets:
                steps["_tp"] = now - int(draw.choice(self.past_offsets))
            clamped = {suffix: min(max(step, 0), length - 1) for suffix, step in steps.items()}
            data, extra = self._frames(trajectory_id, clamped)
            for suffix, step in steps.items():
                extra[suffix][f"valid{suffix}"] = float(clamped[suffix] == step)
                extra[suffix][f"offset{suffix}"] = abs(step - now)
            data[EXTRA] = extra
            return data

        def _frames(
            self, trajectory_id: int, steps: dict[str, int]
        ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
            """Upstream's data of several steps joined, and the further columns of each."""
            frames, extra = [], {}
            self.curr_traj_id = None
            try:
                for suffix, step in steps.items():
                    frames.append(super().get_step_data(trajectory_id, step))
                    # Upstream reads the parquet file anew for each step unless the episode is said to be the current.
                    self.curr_traj_id = trajectory_id
                    read = columns.read(self.curr_traj_data, step, self.geometry_columns)
                    extra[suffix] = {f"{key}{suffix}": value for key, value in read.items()}
            finally:
                self.curr_traj_id = None
            joined = dict(frames[0])
            for modality in ("video", "state", "action"):
                for key in self.modality_keys.get(modality, []):
                    joined[key] = np.concatenate([frame[key] for frame in frames])
            return joined, extra

        def _pack_sample(self, data: dict[str, Any]) -> dict[str, Any]:
            """Upstream's sample of each frame, under one roof."""
            extra = data.pop(EXTRA)
            packed = {}
            for number, suffix in enumerate(extra):
                part = dict(data)
                for modality in ("video", "state", "action"):
                    for key in self.modality_keys.get(modality, []):
                        size = len(data[key]) // len(extra)
                        part[key] = data[key][number * size : (number + 1) * size]
                packed[suffix] = super()._pack_sample(part)
            sample = packed[""]
            sample |= {key: value for key, value in extra[""].items() if key in columns.READERS}
            for suffix in (each for each in extra if each):
                kept = ("image", "state", "action") if suffix == "_tp" else ("image", "state")
                sample |= {f"{key}{suffix}": packed[suffix][key] for key in kept if key in packed[suffix]}
                sample |= extra[suffix]
                sample.pop(f"contact{suffix}", None)
            if "contact_tk" in extra["_tk"]:
                sample["contact"] = extra["_tk"]["contact_tk"]
            return sample

    NextFrame.__name__ = NextFrame.__qualname__ = f"NextFrame{dataset_class.__name__}"
    return NextFrame


def _unmade(dataset_class: type) -> Any:
    """A data set of ``next_frame(dataset_class)`` that still lacks its state."""
    return object.__new__(next_frame(dataset_class))


class WithNextFrame:
    """A data configuration of starVLA's registry as it is, whose data sets have the next frame."""

    def __init__(self, config: Any, dataset_class: type) -> None:
        self._config, self._class = config, next_frame(dataset_class)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._config, name)

    def make_dataset(self, dataset_name: str | None = None, **options: Any) -> Any:
        """Upstream's hook."""
        return self._class(**options)


def with_next_frame(config: Any, dataset_class: type) -> WithNextFrame:
    """The configuration with the hook; ``dataset_class`` is ``LeRobotSingleDataset``.

    Raises ValueError for a configuration that makes a data set of its own: derive its class with ``next_frame``.
    """
    if hasattr(config, "make_dataset"):
        raise ValueError(
            f"{type(config).__name__} has a make_dataset of its own: let it return next_frame(CLASS)(...) of the class "
            "that it makes"
        )
    return WithNextFrame(config, dataset_class)


def twins(
    configs: dict[str, Any], mixtures: dict[str, Sequence[tuple[str, float, str]]], dataset_class: type
) -> tuple[dict[str, Any], dict[str, list[tuple[str, float, str]]]]:
    """For every robot type and mixture one with ``_next`` behind its name, and the next frame in its samples.

    Robot types with a ``make_dataset`` of their own have no twin, and neither have mixtures of them.
    """
    made = {
        f"{name}_next": with_next_frame(config, dataset_class)
        for name, config in configs.items()
        if not hasattr(config, "make_dataset")
    }
    mixed = {
        f"{name}_next": [(folder, weight, f"{robot}_next") for folder, weight, robot in parts]
        for name, parts in mixtures.items()
        if all(f"{robot}_next" in made for _, _, robot in parts)
    }
    return made, mixed
