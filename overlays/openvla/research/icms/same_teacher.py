"""Whether a model is the one that subspaces were made from, told by what it computes.

Not by its files or weights: Hugging Face's folder and the native checkpoint of one model have no byte in common, and
when training begins FSDP has cut the weights up. The artifact holds the teacher's pooled states of the probe set; the
same weights give them again, whatever they are stored as. On n samples, per layer,

    distance = sqrt(mean_i ||s_i - t_i||^2) / sqrt(mean_j ||t_j - mu||^2),

the model's states s less the teacher's t, over how much the teacher's vary on the whole probe set.
"""

from __future__ import annotations

import torch

from ..ranks import Ranks
from ..thermostat.thermostat import ProbeStates
from .subspace import SubspaceError, Subspaces

# Above what rounding a trained model's weights to bfloat16 does, below what a handful of AdamW steps at openvla's rate
# do; the drift of the covariances does not tell the two apart.
LIMIT = 0.25


def distances(states: ProbeStates, subspaces: Subspaces, samples: int) -> dict[int, float]:
    """Each layer's distance on ``samples`` of the probe set, spread evenly over it, in one forward."""
    layers = sorted(subspaces.layers)
    total = len(subspaces.layers[layers[0]].pooled)
    count = min(samples, total)
    chosen = [i * total // count for i in range(count)]
    here = states(chosen)
    found = {}
    for n in layers:
        teacher = subspaces.layers[n].pooled.double()
        spread = (teacher - teacher.mean(0)).square().sum(1).mean().sqrt()
        gap = (here[n].to("cpu", torch.float64) - teacher[chosen]).square().sum(1).mean().sqrt()
        found[n] = float(gap / spread)
    return found


def refuse_other_teacher(states: ProbeStates, subspaces: Subspaces, ranks: Ranks, samples: int, start: str) -> None:
    """Raise ``SubspaceError``, on every rank alike, if the model is another one than the subspaces' teacher.

    Called by all ranks, each of which forwards the same samples; ``start`` is what the model is called in the message.
    """
    found = distances(states, subspaces, samples)
    agreed = dict(zip(found, ranks.from_main(list(found.values())), strict=True))
    # Not by what is above the limit: NaN is not.
    strange = {n: distance for n, distance in agreed.items() if not distance <= LIMIT}
    if strange:
        layer = max(strange, key=lambda n: strange[n])
        raise SubspaceError(
            f"surgery.subspace_dir holds subspaces of {subspaces.meta['model']['path']}, and {start}, which training "
            f"starts from, is another model: at layer {layer} its hidden states of the probe set lie "
            f"{agreed[layer]:.2g} of their spread from that one's ({LIMIT} is the most); run `python -m "
            f"research.icms.offline_icms --vla_path {start}`, or set surgery.allow_other_teacher if you mean it"
        )
