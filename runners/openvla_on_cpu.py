"""Runs an unmodified script of openvla on a machine without a GPU.

    python runners/openvla_on_cpu.py SCRIPT [ARGUMENTS ...]                                        one process
    torchrun --standalone --nproc-per-node 2 runners/openvla_on_cpu.py SCRIPT [ARGUMENTS ...]      gloo between two

SCRIPT is vla-scripts/finetune.py, vla-scripts/train.py (--vla.enable_mixed_precision_training False: upstream has
bfloat16 there for CUDA only) or experiments/robot/libero/run_libero_eval.py. Where CUDA is there, the script runs as it
would without this launcher.
"""

from __future__ import annotations

import functools
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")


def answer_for_cuda(script: str) -> None:
    """`torch.cuda`, as far as openvla's training scripts ask it, answers with the processor.

    Only the code of `script` itself is told that CUDA is available (finetune.py asserts it); every library, and what
    chooses a device by asking, still hears the truth.
    """
    truth = torch.cuda.is_available

    def is_available() -> bool:
        return sys._getframe(1).f_code.co_filename == script or truth()

    torch.cuda.is_available = is_available
    torch.cuda.set_device = lambda device: None
    torch.cuda.current_device = lambda: CPU
    # FSDP takes the number of devices for the number of ranks on a node.
    torch.cpu.device_count = lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def name_the_device() -> None:
    """accelerate's rank on this machine, which openvla uses as its device, is the processor; so is DDP's device."""
    from accelerate import PartialState
    from torch.nn.parallel import DistributedDataParallel

    start, wrap = PartialState.__init__, DistributedDataParallel.__init__

    @functools.wraps(start)
    def started(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.local_process_index = CPU

    @functools.wraps(wrap)
    def wrapped(self: Any, module: torch.nn.Module, device_ids: Any = None, **options: Any) -> None:
        wrap(self, module, device_ids=None, **options)

    PartialState.__init__ = started
    PartialState.is_local_main_process = property(lambda self: int(os.environ.get("LOCAL_RANK", "0")) == 0)
    DistributedDataParallel.__init__ = wrapped


def autocast_here() -> None:
    """A region of autocast for CUDA becomes one for the processor: bfloat16 is computed where upstream means it."""
    start = torch.autocast.__init__

    @functools.wraps(start)
    def started(self: Any, device_type: str, *arguments: Any, **options: Any) -> None:
        start(self, "cpu" if device_type == "cuda" else device_type, *arguments, **options)

    torch.autocast.__init__ = started


def attend_without_flash() -> None:
    """flash-attn runs on CUDA only: a model that is asked for it takes what torch has."""
    from transformers import PreTrainedModel

    # transformers 5, where the stand-in for openvla runs, chooses elsewhere; upstream's pin is 4.40.1.
    choose = getattr(PreTrainedModel, "_autoset_attn_implementation", None)
    if choose is None:
        return

    def chosen(cls: Any, config: Any, use_flash_attention_2: bool = False, **options: Any) -> Any:
        if config._attn_implementation == "flash_attention_2":
            config._attn_implementation = None
        return choose.__func__(cls, config, **options)

    PreTrainedModel._autoset_attn_implementation = classmethod(chosen)


def keep_states_in_place() -> None:
    """FSDP's checkpoints stay where they are: moved to the processor, a parameter is freed before it is copied."""
    from torch.distributed.fsdp import FullStateDictConfig

    start = FullStateDictConfig.__init__

    @functools.wraps(start)
    def started(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.offload_to_cpu = False

    FullStateDictConfig.__init__ = started


def join_the_group() -> None:
    """A gloo process group: torchrun's, or one of this process alone, which needs no port."""
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def leave_the_group() -> None:
    """Ends the group that finetune.py leaves open: torn down by the interpreter's exit, gloo's threads may abort it."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("usage: python runners/openvla_on_cpu.py SCRIPT [ARGUMENTS ...]")
    script = sys.argv[1]
    if not Path(script).is_file():
        raise SystemExit(f"{script} is not there: name the script of openvla that openvla_on_cpu.py is to run")
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).resolve().parent)
    if torch.cuda.is_available():
        runpy.run_path(script, run_name="__main__")
        return
    answer_for_cuda(script)
    name_the_device()
    autocast_here()
    attend_without_flash()
    keep_states_in_place()
    join_the_group()
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        leave_the_group()


if __name__ == "__main__":
    main()
