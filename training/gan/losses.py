"""Losses of the GAN: tensors in, one number a sample out. Shape letters: N batch, D embedding, C H
W image. Those of logits take [..., N] too: of several discriminators.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logit: Tensor) -> Tensor:
    """Non-saturating loss softplus(-D(G)), [N] (arXiv:1406.2661)."""
    return F.softplus(-fake_logit)


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """softplus(-D(x)) + softplus(D(G)), [N]."""
    return F.softplus(-real_logit) + F.softplus(fake_logit)


def relativistic_loss(better_logit: Tensor, worse_logit: Tensor) -> Tensor:
    """softplus(-(D(better) - D(worse))) of pairs that share their condition, [N] (arXiv:2501.05441,
    eq. 2): real images are the better ones for D, generated ones for G.
    """
    return F.softplus(worse_logit - better_logit)


Adversarial = Literal["non_saturating", "relativistic"]


def adversarial_d(kind: Adversarial, real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """D's loss of this kind, [N]."""
    if kind == "relativistic":
        return relativistic_loss(real_logit, fake_logit)
    return discriminator_loss(real_logit, fake_logit)


def adversarial_g(kind: Adversarial, real_logit: Tensor | None, fake_logit: Tensor) -> Tensor:
    """G's loss of this kind, [N]; that of pairs needs the real logits."""
    if kind == "relativistic":
        assert real_logit is not None
        return relativistic_loss(fake_logit, real_logit)
    return generator_loss(fake_logit)


def mismatch_loss(wrong_logit: Tensor, keep: Tensor) -> Tensor:
    """softplus(D(x, h')), [N], of real images x under another's condition h' (arXiv:1605.05396,
    section 4.1); 0 where `keep` [N] drops the condition, and there is none to mistake.
    """
    return torch.where(keep, F.softplus(wrong_logit), 0.0)


def path_lengths(images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| for images [N, C, H, W] made of w [N, V], y = `noise` / sqrt(H W), [N]
    (arXiv:1912.04958, eq. 4); keeps the graph for its own gradient.
    """
    scaled = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * scaled).sum(), w, create_graph=True)
    return gradient.square().sum(dim=1).sqrt()


def r1_penalty(real_logit: Tensor, images: Tensor) -> Tensor:
    """|grad_x D(x)|^2, [N] (arXiv:1801.04406, eq. 9, without gamma / 2); keeps the graph for its
    own gradient.
    """
    (gradient,) = torch.autograd.grad(real_logit.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean |a - b| of images [N, C, H, W] averaged over squares of 2, 4 and 8 pixels, the mean of
    the three, [N]: places and colours of shapes, not their edges.
    """
    gap, found = a.float() - b.float(), list[Tensor]()
    for _ in range(3):
        gap = F.avg_pool2d(gap, 2)
        found.append(gap.abs().mean(dim=(1, 2, 3)))
    return torch.stack(found).mean(dim=0)


def info_nce(a: Tensor, b: Tensor, *, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Cross entropy of <a_i, b_j> / temperature over the batch, both ways, [N] (arXiv:1807.03748).

    a, b [N, D] are normalised here. Rows where `keep` [N] is False are no samples and no negatives:
    their loss is 0.
    """
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature  # [N, N]
    target = torch.arange(len(a), device=a.device)
    if keep is not None:
        similarity = similarity.masked_fill(~(keep[:, None] & keep[None, :]), -1e4)
    loss = (
        F.cross_entropy(similarity, target, reduction="none")
        + F.cross_entropy(similarity.T, target, reduction="none")
    ) / 2
    return loss if keep is None else torch.where(keep, loss, 0.0)


def mean_kept(loss: Tensor, keep: Tensor) -> Tensor:
    """Mean of loss [N] over the rows that `keep` [N] holds, so that dropped rows do not weaken the
    term; 0 if it holds none.
    """
    return torch.where(keep, loss, 0.0).sum() / keep.sum().clamp(min=1)
