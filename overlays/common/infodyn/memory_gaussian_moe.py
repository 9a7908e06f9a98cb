"""Experts that are chosen by where a token lies: a Gaussian per expert, top-k, all experts in one batched product.

    log p(e | x) = -1/2 sum_d ((x_d - mu_ed) / sigma_ed)^2 - sum_d log sigma_ed - log sum_e' (the same of e')

(IPWT/PILF.) The memory beside it is ``routing_history.py``: it hooks the router and asks for no change here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gaussian_logits(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log p(e | x) up to a term that all experts share, which a softmax over experts does not see.

    x ``[..., D]``, mean and log_sigma ``[E, D]`` -> ``[..., E]``, float32 at least whatever the dtypes and autocast.

    The square is multiplied out, so no ``[..., E, D]`` is made. What all experts have in common (the middle of the
    means, the mean precision) is taken out first: it would cancel in the softmax, but only up to its rounding. With
    equal sigmas nothing of ``x^2`` is left, and the logits are as exact as a linear gate's.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, mean.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, mean, log_sigma = x.to(dtype), mean.to(dtype), log_sigma.to(dtype)
        precision = torch.exp(-2 * log_sigma)
        # The posterior is the same for any middle and any common precision: they need no gradient.
        middle, common = mean.detach().mean(0), precision.detach().mean(0)
        x, mean = x - middle, mean - middle
        offset = 0.5 * (precision * mean.square()).sum(-1) + log_sigma.sum(-1)
        linear, quadratic = x @ (precision * mean).T, x.square() @ (precision - common).T
        return linear - 0.5 * quadratic - (offset - offset.detach().mean())


class GaussianRouting:
    """The forward of a router with Gaussian experts, for a module that has these attributes:

    ``weight [E, D]`` (the means; under the name that a linear gate's rows have, so that what initialises, wraps or
    saves gates finds them), ``log_sigma [E, D]``, ``top_k``, ``norm_topk_prob``.
    """

    weight: Tensor
    log_sigma: Tensor
    top_k: int
    norm_topk_prob: bool

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[..., D]`` -> probabilities ``[N, E]``, and of the k likeliest experts weights and indices ``[N, k]``.

        N counts all tokens. Probabilities and weights are float32 at least. The weights are the probabilities as they
        are: they sum to less than one, unless ``norm_topk_prob``. A transformers router returns the same three.
        """
        logits = gaussian_logits(hidden_states.reshape(-1, hidden_states.shape[-1]), self.weight, self.log_sigma)
        probabilities = logits.softmax(-1)
        weights, indices = probabilities.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return probabilities, weights, indices


class GaussianTopKRouter(GaussianRouting, nn.Module):
    """A Gaussian router of its own. Means are drawn with variance 1 / D, so that logits of tokens of unit mean square
    have unit spread; sigma begins at 1. Raises ValueError where ``top_k`` is not between 1 and ``experts``.
    """

    def __init__(self, dim: int, experts: int, top_k: int, norm_topk_prob: bool = False) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k is {top_k}, but there are {experts} experts; choose 1 to {experts}")
        self.num_experts, self.top_k, self.norm_topk_prob = experts, top_k, norm_topk_prob
        self.weight = nn.Parameter(torch.randn(experts, dim) * dim**-0.5)
        self.log_sigma = nn.Parameter(torch.zeros(experts, dim))


class FusedExperts(nn.Module):
    """E two-layer perceptrons (GELU) in two tensors. The arguments are those of transformers' fused experts.

    Memory goes by the busiest expert: every expert's batch is padded to its load, E times that many rows. Where loads
    are even these are the N k that are needed; where all tokens go to one expert, E times as many.
    """

    def __init__(self, dim: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.num_experts = experts
        self.up_proj = nn.Parameter(torch.empty(experts, hidden, dim).uniform_(-1, 1) * dim**-0.5)
        self.up_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, dim, hidden).uniform_(-1, 1) * hidden**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(experts, dim))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """``[N, D]``, ``[N, k]``, ``[N, k]`` -> ``[N, D]``: the sum over the k experts of weight times output."""
        count, k = top_k_index.shape
        expert, order = top_k_index.flatten().sort(stable=True)
        sizes = torch.bincount(expert, minlength=self.num_experts)
        # Every expert's tokens in one row of a padded batch: one product for all experts, whatever the load.
        place = torch.arange(count * k, device=expert.device) - (sizes.cumsum(0) - sizes)[expert]
        token = order // k
        batch = hidden_states.new_zeros(self.num_experts, int(sizes.max()), hidden_states.shape[-1])
        batch = batch.index_put((expert, place), hidden_states[token])
        inner = F.gelu(torch.baddbmm(self.up_bias[:, None], batch, self.up_proj.transpose(1, 2)))
        outputs = torch.baddbmm(self.down_bias[:, None], inner, self.down_proj.transpose(1, 2))[expert, place]
        weighted = outputs * top_k_weights.flatten()[order, None].to(outputs.dtype)
        return torch.zeros_like(hidden_states).index_add(0, token, weighted.to(hidden_states.dtype))


class MemoryGaussianMoELayer(nn.Module):
    """A mixture of experts in a transformer's block, ``[..., D] -> [..., D]``.

    ``gate`` may be any module that returns what ``GaussianRouting.forward`` does (a linear one, to compare with); by
    default it is a ``GaussianTopKRouter``. ``RoutingHistory.watch`` gives it its memory.
    """

    def __init__(self, dim: int, hidden: int, experts: int, top_k: int, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = GaussianTopKRouter(dim, experts, top_k) if gate is None else gate
        self.experts = FusedExperts(dim, hidden, experts)

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, indices = self.gate(tokens)
        return self.experts(tokens, indices, weights).reshape(hidden_states.shape)
