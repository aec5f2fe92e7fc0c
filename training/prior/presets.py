"""Sizes that are known to work, as constants: what `--preset` chooses from."""

from lafite_shifted.prior.network import PriorConfig
from training.config import RunConfig
from training.prior.config import PriorTrainConfig

PRIOR_PRESETS: dict[str, PriorTrainConfig] = {
    "tiny": PriorTrainConfig(
        prior=PriorConfig(width=160, depth=3, heads=5),
        run=RunConfig(kimg=300, log_kimg=5, evaluate_kimg=50, checkpoint_kimg=50),
        batch=64,
        learning_rate=1e-3,
        warmup_kimg=10,
        ema_half_life_kimg=20,
    ),
    "base": PriorTrainConfig(prior=PriorConfig(width=512, depth=8, heads=8)),
    # network and clusters of arXiv:2211.15388, appendix; its length and batch are our guess
    "corgi": PriorTrainConfig(
        prior=PriorConfig(process="clusters", num_clusters=1024, width=2048, depth=20, heads=32),
        run=RunConfig(kimg=500_000, log_kimg=10, evaluate_kimg=2000, checkpoint_kimg=1000),
        batch=1024,
    ),
}
