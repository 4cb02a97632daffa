"""What is minimised when a model learns from judgements: preferences between texts and between pictures, and single
good and bad ones. Everything is relative to a reference, the model that the learning began with.

=====================  ==============================================================================================
objective              loss of one example
=====================  ==============================================================================================
``text_preference``    -log sigmoid(beta h), h = (log p(y+) - log p_ref(y+)) - (log p(y-) - log p_ref(y-)): DPO
                       (arXiv 2305.18290); with ``smoothing`` eps, for raters who err: robust DPO (arXiv 2403.00409);
                       with log p over the number of tokens, against a bias to length (arXiv 2405.14734)
``flow_preference``    -log sigmoid(-(beta / 2) ((e+ - e+_ref) - (e- - e-_ref))), e the squared error of the velocity:
                       Diffusion-DPO (arXiv 2311.12908), for flow matching Flow-DPO (arXiv 2501.13918)
``unpaired``           1 - sigmoid(reward - z) of a good one, 1 - sigmoid(z - reward) of a bad one: KTO (arXiv
                       2402.01306), for pictures Diffusion-KTO (arXiv 2404.04465); z is the mean reward of the step
                       before, at least 0, instead of KTO's estimate over mismatched pairs, which takes another pass
anchors                -log p(y+) over the number of tokens (MPO, arXiv 2411.10442), and e+ (ours): without them the
                       chosen side itself often gets less likely, only more slowly than the rejected one
=====================  ==============================================================================================

At the first step policy and reference are the same, so that both preference losses are log 2. Weights of tokens: of an
expert's edit the changed ones count more (RLHF-V, arXiv 2312.00849; all of them sum to the number of tokens), of a
rejected picture those of marked defects.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def text_preference(
    chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], beta: float, smoothing: float = 0.0
) -> Tensor:
    """
    Args:
        chosen, rejected: log probabilities of both sides [n]; ``reference`` are those of the reference.
        smoothing: the share of pairs that are expected to be the wrong way round, below 1/2.

    Returns:
        losses [n]
    """
    logits = beta * ((chosen - reference[0]) - (rejected - reference[1]))
    if not smoothing:
        return -F.logsigmoid(logits)
    kept, flipped = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    return ((1 - smoothing) * kept - smoothing * flipped) / (1 - 2 * smoothing)


def flow_preference(chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """
    Args:
        chosen, rejected: squared errors of the velocity of both sides [n], at the same time and noise as each other's
            and as those of the ``reference``.

    Returns:
        losses [n]
    """
    return -F.logsigmoid(-beta / 2 * ((chosen - reference[0]) - (rejected - reference[1])))


def unpaired(rewards: Tensor, good: Tensor, z: Tensor) -> Tensor:
    """
    Args:
        rewards: beta (log p - log p_ref), or -(beta / 2) (e - e_ref), of each example [n].
        good: whether it is to be imitated [n], bool.
        z: what is neither good nor bad, a constant.

    Returns:
        losses [n], from 0 to 1
    """
    return 1 - torch.sigmoid(torch.where(good, rewards - z, z - rewards))


def changed(ids: list[int], other: list[int], weight: float) -> Tensor:
    """Weights of a text's tokens and its end marker [len(ids) + 1]: those that the other text lacks count ``weight``
    times as much as the rest; their mean is 1."""
    weights = torch.ones(len(ids) + 1)
    for kind, start, end, _, _ in SequenceMatcher(None, ids, other, autojunk=False).get_opcodes():
        if kind != "equal":
            weights[start:end] = weight
    return weights / weights.mean()


def over_grid(mask: np.ndarray, grid: tuple[int, int], weight: float) -> Tensor:
    """Weights of a picture's latent tokens [h * w]: from 1 to ``weight``, by the share of a token that is marked.

    Args:
        mask: bool [H, W].
        grid: rows and columns of tokens.
    """
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None, None], grid)
    return 1 + (weight - 1) * share.flatten()


def weighted_means(values: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
    """Of each run of ``counts`` values the mean by the weights [len(counts)]."""
    pairs = zip((values * weights).split(counts), weights.split(counts), strict=True)
    return torch.stack([of.sum() / by.sum() for of, by in pairs])
