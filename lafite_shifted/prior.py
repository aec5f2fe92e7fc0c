"""The prior: text features -> CLIP image embedding by shifted diffusion (arXiv:2211.15388, section
3).

A causal transformer over [text tokens, text embedding, time, cluster, noisy embedding, query]
(arXiv:2204.06125, section 2.2) sees the noisy embedding whitened and predicts sqrt(D) z_0 at the
query. RMSNorm, SwiGLU. With several Gaussians the text chooses one by the same rule while training
and while sampling, and keeps it through the whole chain.

Shape letters: N batch, L text tokens, F width of the text tower, S sequence, W width, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.clusters import ClusterKind, ClusterStats, GaussianClusters
from lafite_shifted.diffusion import (
    Process,
    Sampling,
    Schedule,
    ScheduleConfig,
    diffuse,
    guide,
    plan,
    sample,
    threshold,
)
from lafite_shifted.errors import InputError
from lafite_shifted.stats import EmbeddingStats, Gaussian, Kind
from torch_utils import seeds

NUM_EXTRA = 5  # text embedding, time, cluster (0 without), noisy embedding, query
THRESHOLD_PERCENTILE = 99.5  # of dynamic thresholding


@dataclass(frozen=True)
class PriorConfig:
    """Process and network of a prior."""

    # N(mu, Sigma), one such for each cluster, or DALL-E 2's N(0, I / D)
    process: Literal["shifted", "clusters", "baseline"] = "shifted"
    covariance: Kind = "full"  # of the shifted process
    num_clusters: int = 64  # of the process "clusters"
    cluster_covariance: ClusterKind = "diagonal"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    embed_dim: int = 128  # D
    token_width: int = 192  # F
    context_length: int = 32  # L
    width: int = 512  # W
    depth: int = 8
    heads: int = 8

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} must be a positive multiple of heads {self.heads}, depth at "
                "least 1"
            )
        if self.num_clusters < 1:
            raise ValueError(f"num_clusters must be at least 1, not {self.num_clusters}")

    def gaussian(self, stats: EmbeddingStats) -> Gaussian:
        """Where the chain starts; with clusters, where it would without."""
        if self.process == "baseline":
            return Gaussian.standard(self.embed_dim)
        return Gaussian.from_stats(stats, kind=self.covariance)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU (arXiv:2002.05202)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width)
        hidden = -(-8 * width // 3 // 32) * 32  # 8/3 W keeps the parameters of a 4 W perceptron
        self.to_gate = nn.Linear(width, 2 * hidden, bias=False)
        self.from_hidden = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, s, w = x.shape
        qkv = self.to_qkv(self.attention_norm(x)).view(n, s, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, S, W / heads]
        attended = _attend(q, k, v, mask).transpose(1, 2).reshape(n, s, w)
        x = x + self.to_output(attended)
        gate, value = self.to_gate(self.mlp_norm(x)).chunk(2, dim=2)
        return x + self.from_hidden(F.silu(gate) * value)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention; on a CPU in float32, where the backward pass in bfloat16 takes eight times as
    long (torch 2.14).
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    return attended.to(q.dtype)


class PriorNetwork(nn.Module):
    """(whitened y_t, t, text) -> sqrt(D) z_0 [N, D]."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.from_token = nn.Linear(config.token_width, width)
        self.from_text = nn.Linear(config.embed_dim, width)
        self.from_noisy = nn.Linear(config.embed_dim, width)
        self.from_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        num_clusters = config.num_clusters if config.process == "clusters" else 1
        self.from_cluster = nn.Embedding(num_clusters, width)
        nn.init.normal_(self.from_cluster.weight, std=0.02)
        self.no_text = nn.Parameter(torch.randn(width) * 0.02)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.position = nn.Parameter(torch.randn(config.context_length + NUM_EXTRA, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width)
        self.to_output = nn.Linear(width, config.embed_dim)
        for block in self.blocks:  # residual branches start small (GPT-2)
            for layer in (block.to_output, block.from_hidden):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * config.depth))  # type: ignore[arg-type]

    def forward(
        self,
        y: Tensor,
        t: Tensor,
        embedding: Tensor,
        tokens: Tensor,
        lengths: Tensor,
        has_text: Tensor,
        cluster: Tensor,
    ) -> Tensor:
        """y [N, D], t [N], text features (see TextFeatures), has_text [N] bool: False drops tokens
        and embedding; cluster [N], zeros where there is one Gaussian.
        """
        n, num_tokens = len(y), tokens.shape[1]
        dim = y.shape[1]
        text = self.from_text(embedding * math.sqrt(dim))
        text = torch.where(has_text[:, None], text, self.no_text)
        noisy, query = self.from_noisy(y), self.query.expand(n, -1)
        extra = torch.stack([text, self._time(t), self.from_cluster(cluster), noisy, query], dim=1)
        x = torch.cat([self.from_token(tokens), extra], dim=1)  # [N, S, W]
        position = torch.cat([self.position[:num_tokens], self.position[-NUM_EXTRA:]])
        x = x + position
        mask = attention_mask(torch.where(has_text, lengths, 0), num_tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.to_output(self.norm(x[:, -1]))

    def _time(self, t: Tensor) -> Tensor:
        """Sinusoidal embedding of t, through two layers, [N, W]."""
        half = self.config.width // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = t.float()[:, None] * frequency
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.from_time(F.pad(wave, (0, self.config.width - 2 * half)))


def attention_mask(lengths: Tensor, num_tokens: int) -> Tensor:
    """[N, 1, S, S] True where attention may look: causal, never at tokens behind the end of the
    text.
    """
    size = num_tokens + NUM_EXTRA
    index = torch.arange(size, device=lengths.device)
    causal = index[:, None] >= index[None, :]  # [S, S]
    visible = (index < lengths[:, None]) | (index >= num_tokens)  # [N, S]
    itself = torch.eye(size, dtype=torch.bool, device=lengths.device)  # no row is empty
    return ((causal & visible[:, None, :]) | itself)[:, None]


class Prior(nn.Module):
    """A network with the Gaussian, or Gaussians, and the schedule that it was trained on.

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
        self.gaussian = self.config.gaussian(self.stats).to(device)
        self.clusters = None
        if self.cluster_stats is not None:
            self.clusters = GaussianClusters.from_stats(self.cluster_stats).to(device)
        return self

    def choose(self, embedding: Tensor) -> tuple[Process, Tensor]:
        """The Gaussian of each unit text embedding [N, D], and the number of its cluster [N]."""
        if self.clusters is None:
            return self.gaussian, embedding.new_zeros(len(embedding), dtype=torch.long)
        cluster = self.clusters.assign(embedding)
        return self.clusters.choose(cluster), cluster

    def whitened_limit(self, z0: Tensor, embedding: Tensor) -> float:
        """The percentile of |y_0| over image embeddings [N, D], each whitened by the Gaussian of
        its text's embedding [N, D].
        """
        parts = [  # few at a time: a full covariance for each row is large
            self.choose(text)[0].whiten(image).abs().flatten().cpu()
            for image, text in zip(z0.split(256), embedding.split(256), strict=True)
        ]
        return float(np.percentile(torch.cat(parts).double().numpy(), THRESHOLD_PERCENTILE))

    def predict(
        self,
        z_t: Tensor,
        t: Tensor,
        text,
        has_text: Tensor,
        chosen: tuple[Process, Tensor] | None = None,
    ) -> Tensor:
        """z_0 [N, D] (not normalised) from z_t [N, D] at times t [N]; `text` is a TextFeatures,
        `chosen` what `choose` has given for it (None: asked again).
        """
        process, cluster = chosen or self.choose(text.embedding)
        y = process.whiten(z_t)
        reduced = self.compute_dtype != torch.float32
        with torch.autocast(y.device.type, self.compute_dtype, enabled=reduced):
            features = (text.embedding, text.tokens, text.lengths)
            scaled = self.network(y, t, *features, has_text, cluster)
        return scaled.float() / math.sqrt(self.config.embed_dim)

    def loss(self, z0: Tensor, text, *, t: Tensor, noise: Tensor, has_text: Tensor) -> Tensor:
        """Mean square error of sqrt(D) z_0, times 1 - abar_t, [N].

        The factor is P2's (arXiv:2204.00227, gamma 1, k 1: 1 / (1 + SNR) = 1 - abar_t), here on the
        z_0 loss as in arXiv:2211.15388, where the paper that proposes it puts it on the noise loss.
        """
        chosen = self.choose(text.embedding)
        z_t = diffuse(z0, t, noise, chosen[0], self.schedule)
        error = (self.predict(z_t, t, text, has_text, chosen) - z0).square().mean(
            dim=1
        ) * self.config.embed_dim
        return error * (1 - self.schedule.abar.to(z0.device)[t]).float()

    @torch.no_grad()
    def sample(
        self, text, *, sample_seeds: Sequence[int], sampling: Sampling | None = None
    ) -> Tensor:
        """Unit image embeddings [N, D] for N texts (a TextFeatures); row i depends on text i and
        `sample_seeds[i]`. InputError where the prior cannot sample so.
        """
        sampling = sampling or Sampling()
        if sampling.steps > self.schedule.num_steps:
            raise InputError(
                f"{sampling.steps} sampling steps: this prior has {self.schedule.num_steps}. Give "
                "fewer."
            )
        if sampling.threshold and self.limit is None:
            raise InputError(
                "This prior knows no percentile for thresholding. Train it with this version, or "
                "leave thresholding out."
            )
        chosen = self.choose(text.embedding)
        best = self._draw(text, chosen, sample_seeds, sampling, candidate=0)
        for candidate in range(1, sampling.best_of):
            other = self._draw(text, chosen, sample_seeds, sampling, candidate=candidate)
            closer = (other * text.embedding).sum(dim=1) > (best * text.embedding).sum(dim=1)
            best = torch.where(closer[:, None], other, best)
        return best

    def _draw(
        self,
        text,
        chosen: tuple[Process, Tensor],
        sample_seeds: Sequence[int],
        sampling: Sampling,
        *,
        candidate: int,
    ) -> Tensor:
        process, device = chosen[0], text.embedding.device
        yes = torch.ones(len(text), dtype=torch.bool, device=device)

        def denoise(z_t: Tensor, t: int) -> Tensor:
            time = torch.full((len(text),), t, device=device)
            z0 = self.predict(z_t, time, text, yes, chosen)
            if sampling.guidance != 1.0:
                without = self.predict(z_t, time, text, ~yes, chosen)
                z0 = guide(z0, without, sampling.guidance)
            if sampling.threshold and self.limit is not None:
                y0 = threshold(process.whiten(z0), self.limit, percentile=THRESHOLD_PERCENTILE)
                z0 = process.unwhiten(y0)
            return z0

        def noise(step: int) -> Tensor:
            key = ("prior", step) if candidate == 0 else ("prior", step, candidate)
            shape = (self.config.embed_dim,)
            return seeds.normal_per_sample(shape, key=key, indices=sample_seeds).to(device)

        steps = plan(
            self.schedule, num_steps=sampling.steps, sampler=sampling.sampler, eta=sampling.eta
        )
        # normalised once, at the end: early predictions rightly have norms below 1
        return F.normalize(sample(denoise, noise, process, steps), dim=1)
