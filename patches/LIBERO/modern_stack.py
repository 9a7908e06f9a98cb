from graft.pack import In, Pack, add_import, before, ensure, replace

BENCHMARK = "libero/libero/benchmark/__init__.py"
ROOT = "libero/libero/__init__.py"
ARRAYS = "from libero.guard import torch_arrays as torch"
MODELS = "from libero.guard import torch_models as torch"
ONLY_ARRAYS = "load() then yields numpy arrays and nothing else, on every torch and numpy; the rest is torch itself"

PACK = Pack(
    upstream="LIBERO",
    name="modern_stack",
    why="LIBERO on today's torch, numpy and gymnasium, without a prompt and without code from data files",
    edits=[
        In(BENCHMARK, "Benchmark.get_task_init_states", add_import(ARRAYS, why=ONLY_ARRAYS)),
        In("libero/lifelong/metric.py", "evaluate_one_task_success", add_import(ARRAYS, why=ONLY_ARRAYS)),
        In("libero/lifelong/evaluate.py", "main", add_import(ARRAYS, why=ONLY_ARRAYS)),
        In(
            "libero/lifelong/utils.py",
            "torch_load_model",
            add_import(MODELS, why="load() then yields tensors and plain settings, which is what is saved here"),
        ),
        In(
            ROOT,
            None,
            add_import("from libero.libero.config_file import prepare_config", why="the seam below calls it"),
            before(
                "if not os.path.exists(config_file): ...",
                add="prepare_config(config_file, get_default_path_dict())",
                why="writes the defaults where nobody can answer the questions that follow, and names stale paths",
            ),
        ),
        In(
            "libero/libero/envs/env_wrapper.py",
            "ControlEnv.reset",
            replace(
                """
                try:
                    ret = self.env.reset()
                    success = True
                except RandomizationError:
                    pass
                finally:
                    continue
                """,
                with_="""
                try:
                    ret = self.env.reset()
                    success = True
                except RandomizationError:
                    pass
                """,
                why="continue in a finally swallows every exception and tries again for ever",
            ),
        ),
        In(
            "libero/libero/envs/venv.py",
            None,
            replace(
                "import gym",
                with_="from libero.libero.envs.gym_api import gym",
                why="gym where it is installed, else gymnasium, which has the same spaces",
            ),
        ),
    ],
    overlays=[
        "MANIFEST.in",
        "libero/__init__.py",
        "libero/guard",
        "libero/libero/config_file.py",
        "libero/libero/envs/gym_api.py",
        "libero/lifelong/models/modules/__init__.py",
    ],
    ensures=[
        ensure(BENCHMARK, "Benchmark.get_task_init_states", "torch.load(...)", why="it still goes by this name"),
        ensure("libero/lifelong/metric.py", "evaluate_one_task_success", "torch.load(...)", why="likewise"),
        ensure("libero/lifelong/evaluate.py", "main", "torch.load(...)", why="likewise"),
        ensure("libero/lifelong/utils.py", "torch_load_model", "torch.load(...)", why="likewise"),
    ],
)
