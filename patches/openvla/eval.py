from graft.pack import In, Pack, add_field, add_import, after, before, ensure, replace

EVAL = "experiments/robot/libero/run_libero_eval.py"

PACK = Pack(
    upstream="openvla",
    name="eval",
    why="LIBERO evaluation that counts broken episodes apart from failed ones, and runs without flash-attn",
    edits=[
        In(
            EVAL,
            "GenerateConfig",
            add_field("num_tasks: int | None = None", why="the suite's first tasks only; all of them by default"),
            add_field("resume_results: str | None = None", why="an evaluation of hours goes on after an interruption"),
        ),
        In(
            EVAL,
            "eval_libero",
            add_import(
                "from experiments.robot.libero.evaluation import begin_evaluation", why="counts and writes results"
            ),
            after(
                "num_tasks_in_suite = task_suite.n_tasks",
                add="evaluation, num_tasks_in_suite = begin_evaluation(cfg, model, num_tasks_in_suite, log_file)",
                why="the log is open and the suite's size known; nothing has been simulated yet",
            ),
            before(
                "task = task_suite.get_task(task_id)",
                add="if evaluation.kept(task_id): continue",
                why="a task that was played before the interruption is counted, not played again",
            ),
            after(
                'log_file.write(f"Caught exception: {e}\\n")',
                add="done = evaluation.error(e)",
                why="upstream goes on with the last step's done, which the first step has not set yet",
            ),
            after(
                "total_episodes += 1",
                add="evaluation.episode(task_id, task_description, done)",
                why="each episode passes here, whatever came of it",
            ),
            after(
                "if cfg.use_wandb:\n    wandb.log(...)\n    wandb.save(...)",
                add="evaluation.finish()",
                why="everything upstream reports has been reported, so it may fail the run",
            ),
        ),
        In(
            "experiments/robot/openvla_utils.py",
            "get_vla",
            add_import("from experiments.robot.attention import attention_implementation", why="the fallback"),
            replace(
                '"flash_attention_2"',
                with_="attention_implementation(OpenVLAForActionPrediction)",
                why="flash-attn where it works, as upstream has it; elsewhere loading the model would fail",
            ),
        ),
    ],
    overlays=["experiments/robot/libero/evaluation.py", "experiments/robot/attention.py"],
    ensures=[
        ensure(EVAL, "eval_libero", "range(num_tasks_in_suite)", why="the number of tasks comes from the seam"),
        ensure(EVAL, "eval_libero", "evaluation.error(...)", why="errors are counted"),
    ],
)
