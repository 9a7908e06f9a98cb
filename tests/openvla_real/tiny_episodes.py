"""A small RLDS data set under the name libero_spatial_no_noops, which openvla's own configuration knows.

Each of the episodes shows a coloured block that moves across a table, and one instruction; the actions depend on the
instruction, so that a few steps of training lower the loss.

    python tests/openvla_real/tiny_episodes.py FOLDER EPISODES        more than materials.py writes
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "libero_spatial_no_noops"
SIZE = 64
STEPS = 12
COLOURS = {"red": (200, 40, 40), "green": (40, 170, 70), "blue": (50, 80, 200), "yellow": (220, 200, 40)}
# Upstream lowers the case of what it reads.
INSTRUCTIONS = (
    "Put the red block on the plate",
    "Open the upper drawer",
    "push the green cup behind the box",
    "Close the lid of the blue box",
    "lift the yellow block",
    "turn the plate left",
    "pull the drawer in front of the robot",
    "put the blue cup into the drawer",
)


def picture(episode: int, step: int, seed: int) -> Any:
    """An image uint8 [SIZE, SIZE, 3]: a table, a block in the episode's colour at the step's place, some noise."""
    import numpy

    random = numpy.random.default_rng([seed, episode, step])
    image = numpy.full((SIZE, SIZE, 3), 225, numpy.int16)
    image[SIZE // 2 :] = (150, 120, 90)
    row, column = 14 + 3 * (episode % 8), 4 + step * 4
    image[row : row + 14, column : column + 12] = list(COLOURS.values())[episode % len(COLOURS)]
    image += random.integers(-4, 5, image.shape, numpy.int16)
    return image.clip(0, 255).astype(numpy.uint8)


def steps(episode: int, seed: int) -> list[dict[str, Any]]:
    """One episode; an action is float32 [7], the gripper's last and -1 or 1."""
    import numpy

    random = numpy.random.default_rng([seed, episode])
    goal = random.uniform(-0.8, 0.8, 6)
    rows = []
    for step in range(STEPS):
        motion = goal + random.normal(0, 0.1, 6)
        gripper = 1.0 if step > STEPS // 2 else -1.0
        rows.append(
            {
                "observation": {
                    "image": picture(episode, step, seed),
                    "wrist_image": 255 - picture(episode, step, seed),
                    "state": random.normal(0, 1, 8).astype(numpy.float32),
                    "joint_state": random.normal(0, 1, 7).astype(numpy.float32),
                },
                "action": numpy.append(motion.clip(-1, 1), gripper).astype(numpy.float32),
                "discount": 1.0,
                "reward": float(step == STEPS - 1),
                "is_first": step == 0,
                "is_last": step == STEPS - 1,
                "is_terminal": step == STEPS - 1,
                "language_instruction": INSTRUCTIONS[episode % len(INSTRUCTIONS)],
            }
        )
    return rows


def write_episodes(root: Path, seed: int = 7, episodes: int = len(INSTRUCTIONS)) -> Path:
    """Writes episodes, by default one for every instruction, below `root`, upstream's `--data_root_dir`; returns the
    set's folder."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow would wait for Google's metadata server, which only machines there have.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    import numpy
    import tensorflow_datasets as tfds

    tf = tfds.features
    image = tf.Image(shape=(SIZE, SIZE, 3), dtype=numpy.uint8, encoding_format="jpeg")
    step = {
        "observation": tf.FeaturesDict(
            {
                "image": image,
                "wrist_image": image,
                "state": tf.Tensor(shape=(8,), dtype=numpy.float32),
                "joint_state": tf.Tensor(shape=(7,), dtype=numpy.float32),
            }
        ),
        "action": tf.Tensor(shape=(7,), dtype=numpy.float32),
        **{name: tf.Scalar(dtype=numpy.float32) for name in ("discount", "reward")},
        **{name: tf.Scalar(dtype=numpy.bool_) for name in ("is_first", "is_last", "is_terminal")},
        "language_instruction": tf.Text(),
    }
    features = tf.FeaturesDict(
        {"steps": tf.Dataset(step), "episode_metadata": tf.FeaturesDict({"file_path": tf.Text()})}
    )

    def examples() -> Iterator[tuple[str, dict[str, Any]]]:
        for episode in range(episodes):
            yield (
                f"episode{episode}",
                {"steps": steps(episode, seed), "episode_metadata": {"file_path": f"episode{episode}"}},
            )

    class LiberoSpatialNoNoops(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        VERSION = tfds.core.Version("1.0.0")
        name = NAME

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=features, description="made, not recorded")

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {"train": examples()}

        def _generate_examples(self) -> Iterator[Any]:
            return iter(())

    builder = LiberoSpatialNoNoops(data_dir=str(root))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)


if __name__ == "__main__":
    write_episodes(Path(sys.argv[1]), episodes=int(sys.argv[2]))
