"""The prior: text features -> CLIP image embedding by shifted diffusion (arXiv:2211.15388, section
3). A network with the Gaussian, or Gaussians, and the schedule that it was trained on.

With several Gaussians the text selects one by the same rule in training and in sampling, and it is
held through the whole chain. The objective is the mean square error, or the energy score
(arXiv:2502.02483): then the network is a sampler of z_0 given z_t and needs few steps.

Shape letters: N texts, R timesteps a text, M samples a timestep, D embedding.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.gaussian_clusters import GaussianClusters
from lafite_shifted.gaussian.linear_denoiser import LinearDenoiser
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.caches import StepCache, TextCache
from lafite_shifted.prior.diffusion import NoiseGaussian, Schedule, diffuse
from lafite_shifted.prior.energy_score import energy_score
from lafite_shifted.prior.network import PriorConfig, PriorNetwork
from torch_utils.host_reads import HostRead, on_host
from torch_utils.sending import to_device

START = HostRead.START
THRESHOLD_PERCENTILE = 99.5  # of dynamic thresholding


@dataclass(frozen=True)
class EncodedText:
    """N texts as a prior takes them, whatever the seed."""

    embedding: Tensor  # [N, D]
    cluster: Tensor  # [N]
    cache: TextCache  # of the N texts; if guided, then of what it leads away from, 2 N

    def __getitem__(self, rows: Tensor) -> "EncodedText":
        """`rows` are on the CPU."""
        num_texts, rows = len(self.cluster), to_device(rows, self.embedding.device)
        guided = len(self.cache.visible) > num_texts
        cached = torch.cat([rows, rows + num_texts]) if guided else rows
        return EncodedText(self.embedding[rows], self.cluster[rows], self.cache[cached])


class Prior(nn.Module):
    """A network with its Gaussians and its schedule.

    `threshold_quantile` belongs to dynamic thresholding: the percentile of |y| of the training
    embeddings in whitened coordinates (see `whitened_quantile`).
    """

    def __init__(
        self,
        config: PriorConfig,
        stats: EmbeddingStats,
        clusters: ClusterStats | None = None,
        *,
        threshold_quantile: float | None = None,
    ):
        super().__init__()
        if (clusters is not None) != (config.process == "clusters"):
            raise ValueError("cluster statistics belong to the process `clusters`, and to no other")
        self.config, self.stats, self.cluster_stats, self.threshold_quantile = (
            config,
            stats,
            clusters,
            threshold_quantile,
        )
        self.schedule = Schedule(config.schedule)
        self.network = PriorNetwork(config)
        self.compute_dtype = torch.float32  # of the network alone: whitening stays in float32
        self.to_device(torch.device("cpu"))

    def to_device(self, device: torch.device) -> "Prior":
        """Move the network, and fit the Gaussians anew on `device`; returns the prior itself."""
        self.network.to(device)
        gaussian, self.clusters, self.linear = self.config.gaussian(self.stats), None, None
        self.gaussian = gaussian.to(device)
        if self.config.is_v_parameterised:
            own = self.config.process == "shifted" and self.config.covariance == "full"
            data = gaussian if own else Gaussian.from_stats(self.stats)
            self.linear = LinearDenoiser.of(data, gaussian).to(device)
        if self.cluster_stats is not None:
            self.clusters = GaussianClusters.from_stats(self.cluster_stats).to(device)
        return self

    @property
    def times(self) -> list[int]:
        """The timesteps of its training, rising: all, or those of at most `step_budget` steps."""
        most = self.config.step_budget
        if most is None:
            return list(range(1, self.schedule.num_steps + 1))
        return sorted({t for n in range(1, most + 1) for t in self.schedule.subset(n)})

    def assign(self, embedding: Tensor) -> Tensor:
        """The cluster [N] of each unit text embedding [N, D]; zeros where there is one Gaussian."""
        if self.clusters is None:
            return embedding.new_zeros(embedding.shape[0], dtype=torch.long)
        return self.clusters.assign(embedding)

    def gaussian_of(self, cluster: Tensor) -> NoiseGaussian:
        """The Gaussian of each row, given its cluster [N]."""
        return self.gaussian if self.clusters is None else self.clusters.choose(cluster)

    def whitened_quantile(self, z0: Tensor, embedding: Tensor) -> float:
        """The percentile of |y_0| over image embeddings [N, D], each whitened by the Gaussian of
        its text's embedding [N, D].
        """
        parts = [  # few at a time: a full covariance for each row is large
            on_host(self.gaussian_of(self.assign(text)).whiten(image).abs().flatten(), START)
            for image, text in zip(z0.split(256), embedding.split(256), strict=True)
        ]
        return float(np.percentile(torch.cat(parts).double().numpy(), THRESHOLD_PERCENTILE))

    def cache_text(self, text: TextFeatures, has_text: Tensor, cluster: Tensor) -> TextCache:
        """Keys and values of N texts for `predict`; `has_text` [N], on the CPU, False: without
        text.
        """
        with self._reduced(cluster.device):
            return self.network.encode_text(text, has_text, cluster)

    def predict(
        self,
        z_t: Tensor,
        t: Tensor,
        gaussian: NoiseGaussian,
        cache: TextCache,
        sample_noise: Tensor | None = None,
        *,
        level: float | None = None,
    ) -> Tensor:
        """z_0 [N R, D] (not normalised) from z_t [N R, D] at timesteps t [N R], R of them for each
        of the N cached texts; `sample_noise` [N R, D] selects the sample of the energy objective.
        `level` is abar where all t are the same: an exported graph then has no float64.

        In the v-parameterisation, z_0 is the best linear denoiser of the data's Gaussian plus
        sqrt(1 - abar) times the output of the network. In the process of that Gaussian the first
        is mean + sqrt(abar) (z_t - mean), and the output is arXiv:2202.00512's v with the sign
        turned: at little noise the network contributes little.
        """
        y = gaussian.whiten(z_t)
        with self._reduced(y.device):
            scaled = self.network(y, t, cache, sample_noise)
        if level is None:
            abar = self.schedule.at(t)[:, None]
            return self._z0(z_t, scaled, abar.float(), (1 - abar).sqrt().float())
        return self._z0(z_t, scaled, torch.tensor(level), torch.tensor(math.sqrt(1 - level)))

    def cache_times(
        self, cache: TextCache, times: Sequence[int], *, repeats: int
    ) -> dict[int, StepCache]:
        """What `denoise` takes at each of `times`, for R = `repeats` samples of each text."""
        device = cache.visible.device
        with self._reduced(device):
            t = to_device(torch.tensor(times), device)
            steps = self.network.encode_times(cache, t, repeats=repeats)
        return dict(zip(times, steps, strict=True))

    def denoise(
        self,
        z_t: Tensor,
        t: int,
        gaussian: NoiseGaussian,
        cache: StepCache,
        sample_noise: Tensor | None = None,
    ) -> Tensor:
        """As `predict`, all rows at one timestep: z_0 [V, N R, D], V = 1, or 2 where `cache` also
        has what guidance leads away from.
        """
        y = gaussian.whiten(z_t)
        views = cache.num_samples // len(z_t)
        if views > 1:
            y = y.repeat(views, 1)
            sample_noise = None if sample_noise is None else sample_noise.repeat(views, 1)
        with self._reduced(y.device):
            scaled = self.network.denoise(y, cache, sample_noise)
        abar = self.schedule.abar[t]
        scaled = scaled.view(views, *z_t.shape)
        return self._z0(z_t, scaled, abar.float(), (1 - abar).sqrt().float())

    def _z0(self, z_t: Tensor, scaled: Tensor, abar: Tensor, spread: Tensor) -> Tensor:
        """z_0 of the network's output; abar and sqrt(1 - abar) [N R, 1], or one for all."""
        predicted = scaled.float() / math.sqrt(self.config.embed_dim)
        if self.linear is None:
            return predicted
        return self.linear(z_t, abar) + spread * predicted

    def _reduced(self, device: torch.device) -> AbstractContextManager:
        if torch.compiler.is_exporting():  # each would be a graph of its own
            return nullcontext()
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
        sample_noise: Tensor | None = None,
    ) -> Tensor:
        """Error of the prediction times 1 - abar_t, over R timesteps t [N, R] and noises [N, R, D]
        of each pair, [N].

        The error is the mean square one of sqrt(D) z_0, or the energy score of the M >= 2 samples
        of z_0 that `sample_noise` [N, R, M, D] gives. The factor is P2's (arXiv:2204.00227, gamma
        1, k 1: 1 / (1 + SNR) = 1 - abar_t), here on the z_0 loss as in arXiv:2211.15388, where the
        paper that proposes it puts it on the noise loss.
        """
        num_timesteps, num_samples = (
            t.shape[1],
            1 if sample_noise is None else sample_noise.shape[2],
        )
        cluster = self.assign(text.embedding)
        true = z0.repeat_interleave(num_timesteps, dim=0)  # [N R, D]
        times = t.flatten()
        gaussian = self.gaussian_of(cluster.repeat_interleave(num_timesteps))
        z_t = diffuse(true, times, noise.flatten(0, 1), gaussian, self.schedule)
        if sample_noise is not None:  # every timestep once for each sample
            z_t, times = z_t.repeat_interleave(num_samples, 0), times.repeat_interleave(num_samples)
            gaussian = self.gaussian_of(cluster.repeat_interleave(num_timesteps * num_samples))
            sample_noise = sample_noise.flatten(0, 2)
        predicted = self.predict(
            z_t, times, gaussian, self.cache_text(text, has_text, cluster), sample_noise
        )
        if sample_noise is None:
            error = (predicted - true).square().sum(dim=1)  # of sqrt(D) z_0, mean over D
        else:
            error = energy_score(predicted.unflatten(0, (-1, num_samples)), true)
        weight = (1 - self.schedule.at(t)).float()
        return (error.view_as(t) * weight).mean(dim=1)

    @torch.no_grad()
    def encode_text(
        self, text: TextFeatures, *, guided: bool = False, negative: TextFeatures | None = None
    ) -> EncodedText:
        """N texts as `sample_embeddings` takes them, computed once for all their samples; `guided`:
        also what guidance leads away from, which is no text, or the one text `negative`.
        """
        cluster = own = self.assign(text.embedding)
        embedding, has_text = text.embedding, torch.ones(len(text), dtype=torch.bool)
        if guided:
            rows = torch.zeros(len(text), dtype=torch.long)
            text = text.joined(text if negative is None else negative[rows])
            has_text = torch.cat([has_text, has_text & (negative is not None)])
            own = cluster.repeat(2)  # both are of the text's Gaussian, whose chain this is
        return EncodedText(embedding, cluster, self.cache_text(text, has_text, own))
