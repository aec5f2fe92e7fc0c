"""The prior: text features -> CLIP image embedding by shifted diffusion (arXiv:2211.15388, section
3). A network with the Gaussian, or Gaussians, and the schedule that it was trained on.

With several Gaussians the text chooses one by the same rule while training and while sampling, and
keeps it through the whole chain. A network that predicts a draw learns the distribution of z_0
given z_t itself, by the energy score (arXiv:2502.02483), and needs few steps.

Shape letters: N texts, R questions a text, M inner draws a question, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.clusters import ClusterStats, GaussianClusters
from lafite_shifted.gaussian.linear_denoiser import LinearDenoiser
from lafite_shifted.gaussian.stats import EmbeddingStats, Gaussian
from lafite_shifted.prior.diffusion import (
    Process,
    Sampling,
    Schedule,
    diffuse,
    guide,
    plan,
    sample,
    threshold,
)
from lafite_shifted.prior.network import PriorConfig, PriorNetwork, Reading
from torch_utils import seeds

DEFAULT_STEPS = 4
THRESHOLD_PERCENTILE = 99.5  # of dynamic thresholding


class Prior(nn.Module):
    """A network with its Gaussians and its schedule.

    `limit` is what dynamic thresholding asks for: the percentile of |y| of the training embeddings
    in whitened coordinates (see `whitened_limit`).
    """

    def __init__(
        self,
        config: PriorConfig,
        stats: EmbeddingStats,
        clusters: ClusterStats | None = None,
        *,
        limit: float | None = None,
    ):
        super().__init__()
        if (clusters is not None) != (config.process == "clusters"):
            raise ValueError("cluster statistics belong to the process `clusters`, and to no other")
        self.config, self.stats, self.cluster_stats, self.limit = config, stats, clusters, limit
        self.schedule = Schedule(config.schedule)
        self.network = PriorNetwork(config)
        self.compute_dtype = torch.float32  # of the network alone: whitening stays in float32
        self.to_device(torch.device("cpu"))

    def to_device(self, device: torch.device) -> "Prior":
        """Move network and Gaussians."""
        self.network.to(device)
        gaussian, self.clusters, self.linear = self.config.gaussian(self.stats), None, None
        self.gaussian = gaussian.to(device)
        if self.config.is_residual:
            data = Gaussian.from_stats(self.stats)
            self.linear = LinearDenoiser.of(data, gaussian).to(device)
        if self.cluster_stats is not None:
            self.clusters = GaussianClusters.from_stats(self.cluster_stats).to(device)
        return self

    @property
    def times(self) -> list[int]:
        """The times that it learns, rising: all, or those of at most `max_steps` steps."""
        most = self.config.max_steps
        if most is None:
            return list(range(1, self.schedule.num_steps + 1))
        return sorted({t for n in range(1, most + 1) for t in self.schedule.subset(n)})

    def assign(self, embedding: Tensor) -> Tensor:
        """The cluster [N] of each unit text embedding [N, D]; zeros where there is one Gaussian."""
        if self.clusters is None:
            return embedding.new_zeros(len(embedding), dtype=torch.long)
        return self.clusters.assign(embedding)

    def process(self, cluster: Tensor) -> Process:
        """The Gaussian of each row, given its cluster [N]."""
        return self.gaussian if self.clusters is None else self.clusters.choose(cluster)

    def whitened_limit(self, z0: Tensor, embedding: Tensor) -> float:
        """The percentile of |y_0| over image embeddings [N, D], each whitened by the Gaussian of
        its text's embedding [N, D].
        """
        parts = [  # few at a time: a full covariance for each row is large
            self.process(self.assign(text)).whiten(image).abs().flatten().cpu()
            for image, text in zip(z0.split(256), embedding.split(256), strict=True)
        ]
        return float(np.percentile(torch.cat(parts).double().numpy(), THRESHOLD_PERCENTILE))

    def read(self, text: TextFeatures, has_text: Tensor, cluster: Tensor) -> Reading:
        """What `predict` must know of N texts; `has_text` [N] False: of none."""
        with self._reduced(cluster.device):
            return self.network.read(text, has_text, cluster)

    def predict(
        self,
        z_t: Tensor,
        t: Tensor,
        process: Process,
        reading: Reading,
        inner: Tensor | None = None,
    ) -> Tensor:
        """z_0 [N R, D] (not normalised) from z_t [N R, D] at times t [N R], R questions about each
        of the N texts read; `inner` [N R, D] decides between the draws of a network that draws.

        A residual network adds sqrt(1 - abar) times what it says to what the data's Gaussian alone
        knows. In the process of that Gaussian this is mean + sqrt(abar) (z_t - mean), and what the
        network says is arXiv:2202.00512's v, with the sign turned. So little noise needs little of
        the network.
        """
        y = process.whiten(z_t)
        with self._reduced(y.device):
            scaled = self.network(y, t, reading, inner)
        said = scaled.float() / math.sqrt(self.config.embed_dim)
        if self.linear is None:
            return said
        abar = self.schedule.abar.to(y.device)[t][:, None]
        return self.linear(z_t, abar.float()) + (1 - abar).sqrt().float() * said

    def _reduced(self, device: torch.device):
        reduced = self.compute_dtype != torch.float32
        return torch.autocast(device.type, self.compute_dtype, enabled=reduced)

    def loss(
        self,
        z0: Tensor,
        text: TextFeatures,
        *,
        t: Tensor,
        noise: Tensor,
        has_text: Tensor,
        inner: Tensor | None = None,
    ) -> Tensor:
        """Error of the prediction times 1 - abar_t, over R times t [N, R] and noises [N, R, D] of
        each pair, [N].

        The error is the mean square one of sqrt(D) z_0, or the energy score of the M >= 2 draws of
        z_0 that `inner` [N, R, M, D] decides. The factor is P2's (arXiv:2204.00227, gamma 1, k 1:
        1 / (1 + SNR) = 1 - abar_t), here on the z_0 loss as in arXiv:2211.15388, where the paper
        that proposes it puts it on the noise loss.
        """
        questions, draws = t.shape[1], 1 if inner is None else inner.shape[2]
        cluster = self.assign(text.embedding)
        true = z0.repeat_interleave(questions, dim=0)  # [N R, D]
        times = t.flatten()
        process = self.process(cluster.repeat_interleave(questions))
        z_t = diffuse(true, times, noise.flatten(0, 1), process, self.schedule)
        if inner is not None:  # every question once for each draw
            z_t, times = z_t.repeat_interleave(draws, 0), times.repeat_interleave(draws)
            process = self.process(cluster.repeat_interleave(questions * draws))
            inner = inner.flatten(0, 2)
        predicted = self.predict(z_t, times, process, self.read(text, has_text, cluster), inner)
        if inner is None:
            error = (predicted - true).square().sum(dim=1)  # of sqrt(D) z_0, mean over D
        else:
            error = energy_score(predicted.unflatten(0, (-1, draws)), true)
        weight = (1 - self.schedule.abar.to(z0.device)[t]).float()
        return (error.view_as(t) * weight).mean(dim=1)

    @torch.no_grad()
    def sample(
        self,
        text: TextFeatures,
        *,
        sample_seeds: Sequence[int],
        sampling: Sampling | None = None,
    ) -> Tensor:
        """Unit image embeddings [N, D] for N texts; row i depends on text i and `sample_seeds[i]`.
        InputError where the prior cannot sample so.
        """
        sampling = self.decided(sampling or Sampling())
        cluster = self.assign(text.embedding)
        process = self.process(cluster)
        yes = torch.ones(len(text), dtype=torch.bool, device=cluster.device)
        readings = [self.read(text, yes, cluster)]
        if sampling.guidance != 1.0:
            readings.append(self.read(text, ~yes, cluster))
        best = self._draw(process, readings, sample_seeds, sampling, candidate=0)
        for candidate in range(1, sampling.best_of):
            other = self._draw(process, readings, sample_seeds, sampling, candidate=candidate)
            closer = (other * text.embedding).sum(dim=1) > (best * text.embedding).sum(dim=1)
            best = torch.where(closer[:, None], other, best)
        return best

    def decided(self, sampling: Sampling) -> Sampling:
        """With the steps and the sampler that suit this prior, where they are left open; InputError
        for what it cannot do.

        The solver suits networks that add to what the Gaussian knows: of others it asks for little
        noise, where their errors are largest (docs/prior.md).
        """
        most = self.config.max_steps or self.schedule.num_steps
        steps = min(DEFAULT_STEPS, most) if sampling.steps is None else sampling.steps
        draws, few = self.config.predicts == "draw", self.config.max_steps is not None
        usual = "dpm++" if self.config.is_residual and not (draws or few) else "ancestral"
        sampler = sampling.sampler or usual
        if steps > most:
            raise InputError(
                f"{steps} sampling steps: this prior has {most}. Give fewer (`--steps`)."
            )
        if sampling.threshold and self.limit is None:
            raise InputError(
                "This prior knows no percentile for thresholding. Train it with this version, or "
                "leave thresholding out."
            )
        if sampler == "dpm++" and few:
            raise InputError(
                "The sampler dpm++ asks at times that this prior has not learnt. Use `--sampler "
                "ancestral`."
            )
        if sampler != "ancestral" and draws:
            raise InputError(
                f"The sampler {sampler} asks for means, and this prior draws. Use "
                "`--sampler ancestral`."
            )
        return replace(sampling, steps=steps, sampler=sampler)

    def _draw(
        self,
        process: Process,
        readings: Sequence[Reading],
        sample_seeds: Sequence[int],
        sampling: Sampling,
        *,
        candidate: int,
    ) -> Tensor:
        """One draw for each text; `readings` with the text, and without it if guided."""
        device = readings[0].visible.device

        def normal(*key: int | str) -> Tensor:
            key = key if candidate == 0 else (*key, candidate)
            shape = (self.config.embed_dim,)
            return seeds.normal_per_sample(shape, key=key, indices=sample_seeds).to(device)

        def denoise(z_t: Tensor, t: int) -> Tensor:
            time = torch.full((len(z_t),), t, device=device)
            inner = normal("prior inner", t) if self.config.predicts == "draw" else None
            z0, *without = (
                self.predict(z_t, time, process, reading, inner) for reading in readings
            )
            if without:
                z0 = guide(z0, without[0], sampling.guidance)
            if sampling.threshold and self.limit is not None:
                y0 = threshold(process.whiten(z0), self.limit, percentile=THRESHOLD_PERCENTILE)
                z0 = process.unwhiten(y0)
            return z0

        assert sampling.steps is not None  # decided, as the sampler is
        assert sampling.sampler is not None
        steps = plan(
            self.schedule,
            num_steps=sampling.steps,
            sampler=sampling.sampler,
            eta=sampling.eta,
        )
        # normalised once, at the end: early predictions rightly have norms below 1
        drawn = sample(denoise, lambda step: normal("prior", step), process, steps)
        encoder = self.stats.encoder_id
        return encoder.normalise(drawn) if encoder else F.normalize(drawn, dim=1)


def energy_score(draws: Tensor, true: Tensor) -> Tensor:
    """Mean distance of M draws [N, M, D] to the true value [N, D], less half their mean distance to
    each other, [N]: smallest in expectation where the draws have the distribution of the truth
    (Gneiting and Raftery 2007, section 4.3).
    """
    m = draws.shape[1]
    if m < 2:
        raise ValueError("the energy score needs at least 2 draws")
    first, second = torch.triu_indices(m, m, offset=1)
    apart = (draws[:, first] - draws[:, second]).norm(dim=2)  # [N, M (M - 1) / 2]
    return (draws - true[:, None]).norm(dim=2).mean(dim=1) - apart.mean(dim=1) / 2
