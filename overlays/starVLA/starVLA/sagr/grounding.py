"""Grounding: the anchor's attention is told where the thing is that the instruction names, on data that says so.

    L = -log sum_i a_i m_i / max_i m_i     a: a slot's attention over geometry tokens; m: a token's share of the thing

Supervised attention (Mi, Wang and Ittycheriah 2016), with a mask from a simulator or a segmenter in the place of word
alignments. It is 0 where all attention lies on the token that shows most of the thing. Imitation alone finds the named
thing late or, on some hundred demonstrations, never: the flow's target is mostly noise, and what the instruction names
is a small part of the rest (the figures are in docs/methods/sagr_flow.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry.base import View
from .geometry.depth import patches
from .precision import at_least_float32


def named_share(
    views: Sequence[View], grid: Sequence[tuple[int, int]], patch: int | None = None, valid: Tensor | None = None
) -> Tensor:
    """How much of each geometry token shows the named thing: [B, Ng] in [0, 1], from the masks of ``View.named``.

    ``grid`` and ``valid`` [B, Ng] are ``GeometryTokens.grid`` and ``mask``: tokens that no attention can reach show
    nothing. ``patch``: the side of a token in pixels where the encoder cuts the view from
    its upper left corner; ``None`` where its grid fills the view. Raises ``ValueError`` for a view without a mask.
    """
    without = [i for i, view in enumerate(views) if view.named is None]
    if without:
        raise ValueError(
            f"view(s) {without} have no 'named_mask': sagr.losses.w_ground needs one for every view, all False where "
            "the named thing is not seen; set it to 0 for data without"
        )
    shares = []
    for view, size in zip(views, grid, strict=True):
        named = view.named.float()
        if patch is None:
            shares.append(F.adaptive_avg_pool2d(named[:, None], size).flatten(1))
        else:
            shares.append(patches(named.unsqueeze(-1), patch).mean(dim=(3, 4)).flatten(1))
    share = torch.cat(shares, dim=1)
    return share if valid is None else share.masked_fill(~valid, 0.0)


def grounding_loss(attention: Tensor, share: Tensor) -> Tensor:
    """The mean over slots and samples, a scalar of float32 at least; samples that show nothing of the thing are left
    out, and where all do it is 0 with a graph.

    attention: [B, Ns, Ng], rows that sum to 1; share: [B, Ng]. Raises ``ValueError`` where the two do not fit.
    """
    if attention.ndim != 3 or attention.shape[::2] != share.shape:
        raise ValueError(f"attention {list(attention.shape)} must be [B,Ns,Ng] for shares {list(share.shape)}")
    attention = at_least_float32(attention)
    most = share.amax(dim=1)
    relative = share.to(attention) / most.clamp_min(torch.finfo(share.dtype).tiny)[:, None].to(attention)
    found = (attention * relative[:, None]).sum(-1)
    # Attention that underflows to 0 must still have a slope.
    missed = -(found + 1e-6).log().mean(dim=1)
    seen = most > 0
    return missed.masked_fill(~seen, 0.0).sum() / seen.sum().clamp_min(1)
