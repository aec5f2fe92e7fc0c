"""The network of the prior.

A causal transformer over [text tokens, text embedding, cluster, time, noisy embedding, query]
(arXiv:2204.06125, section 2.2) takes the noisy embedding whitened and predicts at the query z_0, or
v (see `Prior.predict`). RMSNorm, SwiGLU. Nothing before the time depends on it: the keys and values
of a text are computed once (`encode_text`) and used by every network evaluation (`forward`); in
sampling also those of the timesteps (`encode_times`), which leaves two tokens a step (`denoise`).

Shape letters: N texts, R timesteps or samples a text, L text tokens, F width of the text tower, P
condition tokens of a text, S sequence, W width, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.encoders.encoder_id import TextEncoderId
from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.gaussian.cluster_stats import ClusterCovarianceType
from lafite_shifted.gaussian.gaussian import CovarianceType, Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.caches import (
    NUM_CONDITION_TOKENS,
    NUM_QUERY_TOKENS,
    StepCache,
    TextCache,
    query_mask,
    text_mask,
    visible_places,
    what_is_visible,
)
from lafite_shifted.prior.choices import check_choices
from lafite_shifted.prior.diffusion import ScheduleConfig
from torch_utils.sending import to_device


@dataclass(frozen=True)
class PriorConfig:
    """Process and network of a prior."""

    # N(mu, Sigma), one such for each cluster, or DALL-E 2's N(0, I / D)
    process: Literal["shifted", "clusters", "baseline"] = "shifted"
    covariance: CovarianceType = "full"  # of the shifted process
    num_clusters: int = 64  # of the process "clusters"
    cluster_covariance: ClusterCovarianceType = "diagonal"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    # mean square error: predicts the mean of z_0 given z_t; energy score: samples z_0 given z_t
    objective: Literal["mse", "energy"] = "mse"
    step_budget: int | None = None  # most sampling steps, whose timesteps alone are trained on
    # whether the network predicts v, on top of the best linear denoiser of the data's Gaussian,
    # or z_0; None: v where the process has that Gaussian
    v_parameterisation: bool | None = None
    embed_dim: int = 128  # D
    token_width: int = 192  # F
    text_encoder: TextEncoderId | None = None  # whose token states it takes; None: the CLIP's own
    context_length: int = 32  # L
    width: int = 512  # W
    depth: int = 8
    heads: int = 8

    def __post_init__(self) -> None:
        check_choices(self)
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} must be a positive multiple of heads {self.heads}, depth at "
                "least 1"
            )
        if self.process == "clusters" and self.v_parameterisation:
            raise ValueError("v_parameterisation needs a process of one Gaussian, not clusters")
        if self.num_clusters < 1:
            raise ValueError(f"num_clusters must be at least 1, not {self.num_clusters}")
        if self.step_budget is not None and not 1 <= self.step_budget <= self.schedule.num_steps:
            raise ValueError(
                f"step_budget must be in 1..{self.schedule.num_steps}, not {self.step_budget}"
            )

    @property
    def is_v_parameterised(self) -> bool:
        """`v_parameterisation`, resolved."""
        if self.v_parameterisation is not None:
            return self.v_parameterisation
        return self.process == "shifted" and self.covariance == "full"

    def gaussian(self, stats: EmbeddingStats) -> Gaussian:
        """Where the chain starts; with clusters, where it would without."""
        if self.process == "baseline":
            return Gaussian.standard(self.embed_dim)
        return Gaussian.from_stats(stats, covariance_type=self.covariance)


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

    def project(self, x: Tensor, mask: Tensor, places: Tensor | None = None) -> tuple[Tensor, ...]:
        """Queries [N, heads, S, W / heads] of x [rows, W], and keys and values [2, N, heads, S, W /
        heads]; `places` are the positions of the rows in [N S], with padding between (None:
        without).
        """
        n, _, s, _ = mask.shape
        qkv = self.to_qkv(self.attention_norm(x))
        if places is not None:
            qkv = qkv.new_zeros(n * s, qkv.shape[1]).index_copy(0, places, qkv)
        qkv = qkv.view(n, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1:]

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        *,
        places: Tensor | None = None,
        cached: Tensor | None = None,
        wanted: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """x [rows, W] -> the next x of the `wanted` rows, and the keys and values of all.

        `places` as `project` takes them; `cached` are the keys and values of the tokens before.
        """
        q, own = self.project(x, mask, places)
        k, v = own if cached is None else torch.cat([cached, own], dim=3)
        attended = _attend(q, k, v, mask).transpose(1, 2).flatten(2).flatten(0, 1)  # [N S, W]
        if places is not None:
            attended = attended[places]
        x = x[wanted] + self.to_output(attended[wanted])
        gate, value = self.to_gate(self.mlp_norm(x)).chunk(2, dim=1)
        return x + self.from_hidden(F.silu(gate) * value), own


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention; in bfloat16 on a CPU written out, where the fused one's backward pass takes three
    times as long (torch 2.14).
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.mT).float() / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).to(v.dtype) @ v


class PriorNetwork(nn.Module):
    """`encode_text`, then (whitened y_t, t) -> z_0 or v, times sqrt(D)."""

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
        is_energy = config.objective == "energy"
        self.from_sample_noise = (
            nn.Linear(config.embed_dim, width, bias=False) if is_energy else None
        )
        length = config.context_length + NUM_CONDITION_TOKENS + NUM_QUERY_TOKENS
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width)
        self.to_output = nn.Linear(width, config.embed_dim)
        for block in self.blocks:  # residual branches start small (GPT-2)
            for layer in (block.to_output, block.from_hidden):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * config.depth))  # type: ignore[arg-type]

    def encode_text(self, text: TextFeatures, has_text: Tensor, cluster: Tensor) -> TextCache:
        """Texts whose tokens and embedding are dropped where `has_text` [N], on the CPU, is False;
        cluster [N], zeros where there is one Gaussian.
        """
        device = text.tokens.device

        seen = what_is_visible(text.lengths, has_text, text.tokens.shape[1])
        visible, places = (to_device(tensor, device) for tensor in seen)
        x = self._condition_tokens(text, to_device(has_text, device), cluster)  # [N, P, W]
        x = x.flatten(0, 1)[places]  # outside attention, padding costs nothing
        return self._text_cache(x, visible, places)

    def encode_padded_text(self, text: TextFeatures, cluster: Tensor) -> TextCache:
        """The same with padding computed too, where no shape may depend on the lengths; a text of
        length 0 is dropped.
        """
        has_text = text.lengths > 0
        visible = visible_places(text.lengths, text.tokens.shape[1])
        x = self._condition_tokens(text, has_text, cluster)
        return self._text_cache(x.flatten(0, 1), visible, None)

    def _condition_tokens(self, text: TextFeatures, has_text: Tensor, cluster: Tensor) -> Tensor:
        """[N, P, W]."""
        embedding = self.from_text(text.embedding * math.sqrt(self.config.embed_dim))
        embedding = torch.where(has_text[:, None], embedding, self.no_text)
        extra = torch.stack([embedding, self.from_cluster(cluster)], dim=1)
        x = torch.cat([self.from_token(text.tokens), extra], dim=1)
        behind = self.position[-NUM_CONDITION_TOKENS - NUM_QUERY_TOKENS : -NUM_QUERY_TOKENS]
        return x + torch.cat([self.position[: text.tokens.shape[1]], behind])

    def _text_cache(self, x: Tensor, visible: Tensor, places: Tensor | None) -> TextCache:
        """Through the blocks: x [rows, W], of the `places` as `Block` takes them."""
        none = [None] * len(self.blocks)
        return TextCache(self._keys(x, text_mask(visible), none, places), visible)

    def _keys(
        self, x: Tensor, mask: Tensor, caches: Sequence[Tensor | None], places: Tensor | None = None
    ) -> list[Tensor]:
        """Keys and values of x [rows, W] in every block: of the last one, nothing else."""
        found = []
        for block, cached in zip(self.blocks[:-1], caches[:-1], strict=True):
            x, own = block(x, mask, cached=cached, places=places)
            found.append(own)
        return [*found, self.blocks[-1].project(x, mask, places)[1]]  # type: ignore[operator]

    def encode_times(self, cache: TextCache, times: Tensor, *, repeats: int) -> list[StepCache]:
        """What `denoise` takes at each of the timesteps `times` [S], for R = `repeats` samples."""
        n, s, visible = cache.visible.shape[0], len(times), cache.visible
        time = self._time(times) + self.position[-NUM_QUERY_TOKENS]
        keys = self._keys(time.repeat(n, 1), query_mask(visible, s, 1), cache.blocks)
        mask = query_mask(F.pad(visible, (0, 1), value=True), repeats, NUM_QUERY_TOKENS - 1)
        pairs = list(zip(cache.blocks, keys, strict=True))
        return [
            StepCache(
                [torch.cat([text, own[:, :, :, i : i + 1]], dim=3) for text, own in pairs], mask
            )
            for i in range(s)
        ]

    def forward(
        self, y: Tensor, t: Tensor, cache: TextCache, sample_noise: Tensor | None = None
    ) -> Tensor:
        """[N R, D] for y [N R, D] at timesteps t [N R]: row n R + r is the r-th timestep of text n,
        independent of the others. With the energy objective, the standard normal
        `sample_noise` [N R, D] selects the sample.
        """
        mask = query_mask(cache.visible, y.shape[0] // cache.visible.shape[0])
        tokens = [self._time(t), self.from_noisy(y), self._query(y, sample_noise)]
        return self._answer(tokens, mask, cache.blocks)

    def denoise(self, y: Tensor, cache: StepCache, sample_noise: Tensor | None = None) -> Tensor:
        """The same of `forward`, for R samples of each text at the one timestep of `cache`."""
        tokens = [self.from_noisy(y), self._query(y, sample_noise)]
        return self._answer(tokens, cache.mask, cache.blocks)

    def _query(self, y: Tensor, sample_noise: Tensor | None) -> Tensor:
        query = self.query.expand(y.shape[0], -1)
        if self.from_sample_noise is None or sample_noise is None:
            return query
        return query + self.from_sample_noise(sample_noise)

    def _answer(self, tokens: list[Tensor], mask: Tensor, caches: Sequence[Tensor]) -> Tensor:
        """[N R, D] at the last of the tokens, each [N R, W]."""
        size = len(tokens)
        x = (torch.stack(tokens, dim=1) + self.position[-size:]).flatten(0, 1)
        for block, cached in zip(self.blocks[:-1], caches[:-1], strict=True):
            x, _ = block(x, mask, cached=cached)
        last = slice(size - 1, None, size)
        x, _ = self.blocks[-1](x, mask, cached=caches[-1], wanted=last)
        return self.to_output(self.norm(x))

    def _time(self, t: Tensor) -> Tensor:
        """Sinusoidal embedding of t, through two layers, [N R, W]."""
        half = self.config.width // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = t.float()[:, None] * frequency
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.from_time(F.pad(wave, (0, self.config.width - 2 * half)))
