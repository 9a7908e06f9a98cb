"""Runs a checkpoint in the toy world: the stand-in's version of the upstream's evaluation on LIBERO.

python experiments/robot/libero/run_libero_eval.py --pretrained_checkpoint DIR --task_suite_name libero_spatial
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the stand-in is never installed

import draccus
import numpy as np
import tqdm
import wandb
from experiments.robot.libero.libero_utils import (
    get_libero_dummy_action,
    get_libero_env,
    get_libero_image,
    quat2axisangle,
    save_rollout_video,
)
from experiments.robot.openvla_utils import get_processor
from experiments.robot.robot_utils import (
    DATE_TIME,
    get_action,
    get_image_resize_size,
    get_model,
    invert_gripper_action,
    normalize_gripper_action,
    set_seed_everywhere,
)
from libero.libero import benchmark

MAX_STEPS = 2  # an episode here is one action; a second step shows that a wrong one does not end it


@dataclass
class GenerateConfig:
    model_family: str = "openvla"
    pretrained_checkpoint: str | Path = ""
    load_in_8bit: bool = False  # not in the stand-in
    load_in_4bit: bool = False  # not in the stand-in

    center_crop: bool = True

    task_suite_name: str = "libero_spatial"
    num_steps_wait: int = 10
    num_trials_per_task: int = 50

    run_id_note: str | None = None
    local_log_dir: str = "./experiments/logs"

    use_wandb: bool = False
    wandb_project: str = "YOUR_WANDB_PROJECT"
    wandb_entity: str = "YOUR_WANDB_ENTITY"

    seed: int = 7


@draccus.wrap()
def eval_libero(cfg: GenerateConfig) -> None:
    if "image_aug" in str(cfg.pretrained_checkpoint):
        assert cfg.center_crop, "a model that was trained with image augmentations is evaluated with `center_crop`"
    if cfg.load_in_8bit or cfg.load_in_4bit:
        raise NotImplementedError("the stand-in does not quantise")
    set_seed_everywhere(cfg.seed)
    cfg.unnorm_key = cfg.task_suite_name
    model = get_model(cfg)
    if cfg.unnorm_key not in model.norm_stats and f"{cfg.unnorm_key}_no_noops" in model.norm_stats:
        cfg.unnorm_key = f"{cfg.unnorm_key}_no_noops"
    assert cfg.unnorm_key in model.norm_stats, f"{cfg.unnorm_key} is none of {list(model.norm_stats)}"
    processor = get_processor(cfg)

    run_id = f"EVAL-{cfg.task_suite_name}-{cfg.model_family}-{DATE_TIME}"
    if cfg.run_id_note is not None:
        run_id += f"--{cfg.run_id_note}"
    os.makedirs(cfg.local_log_dir, exist_ok=True)
    local_log_filepath = os.path.join(cfg.local_log_dir, run_id + ".txt")
    log_file = open(local_log_filepath, "w")  # noqa: SIM115 - a name that packs count on
    print(f"logging to {local_log_filepath}")
    if cfg.use_wandb:
        wandb.init(entity=cfg.wandb_entity, project=cfg.wandb_project, name=run_id)

    benchmark_dict = benchmark.get_benchmark_dict()
    task_suite = benchmark_dict[cfg.task_suite_name]()
    num_tasks_in_suite = task_suite.n_tasks
    print(f"task suite: {cfg.task_suite_name}")
    log_file.write(f"task suite: {cfg.task_suite_name}\n")
    resize_size = get_image_resize_size(cfg)

    total_episodes, total_successes = 0, 0
    for task_id in tqdm.tqdm(range(num_tasks_in_suite)):
        task = task_suite.get_task(task_id)
        initial_states = task_suite.get_task_init_states(task_id)
        env, task_description = get_libero_env(task, cfg.model_family, resolution=256)
        task_episodes, task_successes = 0, 0
        for episode_idx in tqdm.tqdm(range(cfg.num_trials_per_task)):
            log_file.write(f"\ntask: {task_description}, episode {task_episodes + 1}\n")
            env.reset()
            obs = env.set_init_state(initial_states[episode_idx])
            t = 0
            replay_images = []
            max_steps = MAX_STEPS
            while t < max_steps + cfg.num_steps_wait:
                try:
                    if t < cfg.num_steps_wait:
                        obs, _, done, _ = env.step(get_libero_dummy_action(cfg.model_family))
                        t += 1
                        continue
                    img = get_libero_image(obs, resize_size)
                    replay_images.append(img)
                    rotation = quat2axisangle(obs["robot0_eef_quat"])
                    observation = {
                        "full_image": img,
                        "state": np.concatenate((obs["robot0_eef_pos"], rotation, obs["robot0_gripper_qpos"])),
                    }
                    action = get_action(cfg, model, observation, task_description, processor=processor)
                    action = normalize_gripper_action(action, binarize=True)
                    if cfg.model_family == "openvla":
                        action = invert_gripper_action(action)
                    obs, _, done, _ = env.step(action.tolist())
                    if done:
                        task_successes += 1
                        total_successes += 1
                        break
                    t += 1
                except Exception as e:
                    print(f"Caught exception: {e}")
                    log_file.write(f"Caught exception: {e}\n")
                    break
            task_episodes += 1
            total_episodes += 1
            save_rollout_video(
                replay_images, total_episodes, success=done, task_description=task_description, log_file=log_file
            )
            print(f"# successes: {total_successes} of {total_episodes}")
            log_file.write(f"success: {done}; {total_successes} of {total_episodes}\n")
            log_file.flush()
        log_file.write(f"task success rate: {task_successes / task_episodes}\n")
        if cfg.use_wandb:
            wandb.log({f"success_rate/{task_description}": task_successes / task_episodes})
    log_file.close()
    if cfg.use_wandb:
        wandb.log({"success_rate/total": total_successes / total_episodes, "num_episodes/total": total_episodes})
        wandb.save(local_log_filepath)


if __name__ == "__main__":
    eval_libero()
