"""What reaches the actions in starVLA's layerwise flow head: the same of the stand-in's head and of the real one.

python -m tests.standins.head_reach prints it, with a tree of starVLA on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
REACH = {"context": True, "own noise": True, "other actions' noise": False, "state": False}
"""Every block attends to the context that it is given, and to nothing else."""


def reach_in(tree: Path) -> dict[str, bool]:
    """`reach` of the head in a tree of starVLA, in a process of its own: all trees have modules of the same names."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(ROOT)))}
    command = [sys.executable, "-m", __name__]
    ran = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def reach() -> dict[str, bool]:
    """Whether a chunk changes with the context, with the noise that its first action starts from (that action, and
    the others), and with the state. starVLA must be importable.
    """
    import torch
    from omegaconf import OmegaConf
    from starVLA.model.modules.action_model.LayerwiseFM_ActionHeader import LayerwiseFlowmatchingActionHead

    layers, width = 4, 64
    shape = {"num_layers": layers, "input_embedding_dim": width, "cross_attention_dim": width}
    transformer = {"attention_head_dim": 16, "num_attention_heads": 4, "dropout": 0.0, "final_dropout": True}
    transformer |= {"interleave_self_attention": True, "norm_type": "ada_norm", "positional_embeddings": None}
    action_model = {
        "action_dim": 3,
        "state_dim": 4,
        "action_horizon": 8,
        "num_inference_timesteps": 4,
        "add_pos_embed": True,
        "max_seq_len": 64,
        "num_target_vision_tokens": 4,
        "num_timestep_buckets": 1000,
        "noise_beta_alpha": 1.5,
        "noise_beta_beta": 1.0,
        "noise_s": 0.999,
        "diffusion_model_cfg": {**shape, **transformer},
    }
    torch.manual_seed(0)
    settings = OmegaConf.create({"framework": {"action_model": action_model}})
    head = LayerwiseFlowmatchingActionHead(settings).eval()
    context = [torch.randn(1, 10, width) for _ in range(layers)]
    state = torch.zeros(1, 1, 4)

    def chunk(context: list[Any] = context, state: Any = state, shift: float = 0.0) -> Any:
        torch.manual_seed(1)
        with _shifted(shift), torch.no_grad():
            return head.predict_action(context, state)

    plain, shifted = chunk(), chunk(shift=2.0)
    return {
        "context": not torch.equal(chunk([each + 1.0 for each in context]), plain),
        "own noise": not torch.equal(shifted[:, :1], plain[:, :1]),
        "other actions' noise": not torch.allclose(shifted[:, 1:], plain[:, 1:], atol=1e-6, rtol=0),
        "state": not torch.allclose(chunk(state=state + 3.0), plain, atol=1e-6, rtol=0),
    }


@contextmanager
def _shifted(amount: float) -> Iterator[None]:
    """``torch.randn`` adds ``amount`` to the first action of a chunk."""
    import torch

    drawn: Callable[..., Any] = torch.randn

    def shifted(*size: Any, **kwargs: Any) -> Any:
        noise = drawn(*size, **kwargs)
        if noise.ndim == 3:
            noise[:, 0] += amount
        return noise

    with mock.patch.object(torch, "randn", shifted):
        yield


if __name__ == "__main__":
    print(json.dumps(reach()))
