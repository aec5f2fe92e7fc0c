"""Configuration of `train-prior`. Defaults follow arXiv:2211.15388, appendix."""

from dataclasses import dataclass, field
from typing import Literal

from lafite_shifted.prior.network import PriorConfig
from training.config import RunConfig, positive


@dataclass(frozen=True)
class PriorTrainConfig:
    """Everything `train-prior` needs besides the embeddings. Defaults follow arXiv:2211.15388,
    appendix.
    """

    prior: PriorConfig = field(default_factory=PriorConfig)
    run: RunConfig = field(
        default_factory=lambda: RunConfig(
            kimg=2000, log_kimg=10, evaluate_kimg=200, checkpoint_kimg=100
        )
    )
    batch: int = 256
    # of each pair of a batch, whose text is encoded once: R timesteps and noises, or M samples at
    # one timestep with the energy objective
    timesteps_per_pair: int = 4
    learning_rate: float = 1.2e-4
    warmup_kimg: float = 25.0
    beta1: float = 0.9
    beta2: float = 0.96
    weight_decay: float = 0.06
    epsilon: float = 1e-6
    gradient_norm: float = 1.0  # clipped to this
    text_dropout: float = 0.1  # share of pairs trained without text, for guidance
    ema_half_life_kimg: float = 250.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the network while training
    hold_out: bool = True  # keep the held-out sixth (training/data/split.py) for evaluation
    evaluation_steps: int = 8  # sampling steps of the held-out metrics
    max_evaluation: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        positive(
            self, "batch", "learning_rate", "evaluation_steps", "max_evaluation", "gradient_norm"
        )
        positive(self, "warmup_kimg", "epsilon", "ema_half_life_kimg", "timesteps_per_pair")
        if self.prior.objective == "energy" and self.timesteps_per_pair < 2:
            raise ValueError("the energy objective needs timesteps_per_pair of at least 2")
        if self.evaluation_steps > self.prior.schedule.num_steps:
            raise ValueError(
                f"evaluation_steps must be at most {self.prior.schedule.num_steps}, the steps of "
                f"the schedule, not {self.evaluation_steps}"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must be in [0, 1)")
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"text_dropout must be in [0, 1), not {self.text_dropout}")
