"""A whole model with random weights, made in memory, on any device."""

import torch
from torch.nn.functional import normalize

from lafite_shifted.decoder.generator import Generator
from lafite_shifted.decoder.inference import freeze_for_inference
from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.model_folder import LoadedPrior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.network import PriorConfig
from lafite_shifted.prior.prior import Prior
from tests.training.gan.trainers import SMALL


def small_model(device: torch.device, *, dtype: torch.dtype = torch.float32) -> TextToImage:
    """The shipped CLIP, and a generator of 16 pixels and a prior with the same weights each
    time.
    """
    clip = ClipEncoder.load("starter")
    token_width = clip.embed_texts(["a cat"]).tokens.shape[2]
    clip.to(device)
    rows = torch.randn(64, clip.id.dim, generator=torch.Generator().manual_seed(0))
    stats = EmbeddingStats.of(normalize(rows + 0.3, dim=1), clip.id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(SMALL.generator).to(device)
        config = PriorConfig(
            embed_dim=clip.id.dim,
            token_width=token_width,
            context_length=clip.context_length,
            width=32,
            depth=1,
            heads=2,
        )
        prior = Prior(config, stats)
    prior.eval().requires_grad_(False)
    gaussian = Gaussian.from_stats(stats, covariance_type="diagonal").to(device)
    frozen = freeze_for_inference(generator, dtype=dtype)
    loaded = LoadedGenerator(frozen, gaussian, clip.id, {}, stats)
    return TextToImage(clip, loaded, LoadedPrior(prior.to_device(device), clip.id, {}))
