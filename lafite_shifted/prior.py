"""The prior: text features -> CLIP image embedding by shifted diffusion (arXiv:2211.15388, section
3).

A causal transformer over [text tokens, text embedding, time, noisy embedding, query]
(arXiv:2204.06125, section 2.2) sees the noisy embedding whitened and predicts sqrt(D) z_0 at the
query. RMSNorm, SwiGLU.

Shape letters: N batch, L text tokens, F width of the text tower, S sequence, W width, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.diffusion import Schedule, ScheduleConfig, diffuse, guide, sample
from lafite_shifted.stats import EmbeddingStats, Gaussian, Kind
from torch_utils import seeds

NUM_EXTRA = 4  # text embedding, time, noisy embedding, query


@dataclass(frozen=True)
class PriorConfig:
    """Process and network of a prior."""

    process: Literal["shifted", "baseline"] = "shifted"  # N(mu, Sigma), or DALL-E 2's N(0, I / D)
    covariance: Kind = "full"  # of the shifted process
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

    def gaussian(self, stats: EmbeddingStats) -> Gaussian:
        """Where the chain starts."""
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
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.to_output(attended.transpose(1, 2).reshape(n, s, w))
        gate, value = self.to_gate(self.mlp_norm(x)).chunk(2, dim=2)
        return x + self.from_hidden(F.silu(gate) * value)


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
    ) -> Tensor:
        """y [N, D], t [N], text features (see TextFeatures), has_text [N] bool: False drops tokens
        and embedding.
        """
        n, num_tokens = len(y), tokens.shape[1]
        dim = y.shape[1]
        text = self.from_text(embedding * math.sqrt(dim))
        text = torch.where(has_text[:, None], text, self.no_text)
        extra = torch.stack(
            [text, self._time(t), self.from_noisy(y), self.query.expand(n, -1)], dim=1
        )
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
    """A network with the Gaussian and the schedule that it was trained on."""

    def __init__(self, config: PriorConfig, stats: EmbeddingStats):
        super().__init__()
        self.config = config
        self.stats = stats
        self.schedule = Schedule(config.schedule)
        self.network = PriorNetwork(config)
        self.gaussian = config.gaussian(stats).to("cpu")
        self.compute_dtype = torch.float32  # of the network alone: whitening stays in float32

    def to_device(self, device: torch.device) -> "Prior":
        """Move network and Gaussian."""
        self.network.to(device)
        self.gaussian = self.config.gaussian(self.stats).to(device)
        return self

    def predict(self, z_t: Tensor, t: Tensor, text, has_text: Tensor) -> Tensor:
        """z_0 [N, D] (not normalised) from z_t [N, D] at times t [N]; `text` is a TextFeatures."""
        y = self.gaussian.whiten(z_t)
        reduced = self.compute_dtype != torch.float32
        with torch.autocast(y.device.type, self.compute_dtype, enabled=reduced):
            scaled = self.network(y, t, text.embedding, text.tokens, text.lengths, has_text)
        return scaled.float() / math.sqrt(self.config.embed_dim)

    def loss(self, z0: Tensor, text, *, t: Tensor, noise: Tensor, has_text: Tensor) -> Tensor:
        """Mean square error of sqrt(D) z_0, times 1 - abar_t, [N].

        The factor is P2's (arXiv:2204.00227, gamma 1, k 1: 1 / (1 + SNR) = 1 - abar_t), here on the
        z_0 loss as in arXiv:2211.15388, where the paper that proposes it puts it on the noise loss.
        """
        z_t = diffuse(z0, t, noise, self.gaussian, self.schedule)
        error = (self.predict(z_t, t, text, has_text) - z0).square().mean(
            dim=1
        ) * self.config.embed_dim
        return error * (1 - self.schedule.abar.to(z0.device)[t]).float()

    @torch.no_grad()
    def sample(
        self,
        text,
        *,
        sample_seeds: Sequence[int],
        num_steps: int = 8,
        guidance: float = 1.0,
        eta: float = 1.0,
    ) -> Tensor:
        """Unit image embeddings [N, D] for N texts (a TextFeatures); row i depends on text i and
        `sample_seeds[i]`.
        """
        device, dim = text.embedding.device, self.config.embed_dim
        n = len(text)
        yes = torch.ones(n, dtype=torch.bool, device=device)

        def denoise(z_t: Tensor, t: int) -> Tensor:
            time = torch.full((n,), t, device=device)
            z0 = self.predict(z_t, time, text, yes)
            return (
                z0 if guidance == 1.0 else guide(z0, self.predict(z_t, time, text, ~yes), guidance)
            )

        def noise(step: int) -> Tensor:
            return seeds.normal_per_sample((dim,), key=("prior", step), indices=sample_seeds).to(
                device
            )

        z0 = sample(denoise, noise, self.gaussian, self.schedule, num_steps=num_steps, eta=eta)
        return F.normalize(
            z0, dim=1
        )  # once, at the end: early predictions rightly have norms below 1
