"""Training the prior on (text features, image embedding) pairs. Shape letters: N batch, R timesteps
a pair, m captions, D embedding.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.cluster_stats import ClusterStats, cluster
from lafite_shifted.gaussian.gaussian_clusters import same_cluster
from lafite_shifted.io.stored_rows import BATCH, Batches
from lafite_shifted.model_folder import best_metric, save_prior
from lafite_shifted.prior.energy_score import energy_score
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils import distributed, seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import Ema
from torch_utils.host_reads import HostRead, numbers, on_host
from torch_utils.sending import send, to_device
from training.data.embeddings.embedding_set import EmbeddingSet
from training.metrics.distances import few_samples_note, kernel_distance, mean_cosine, set_distance
from training.prior.config import PriorTrainConfig
from training.prior.eval_set import one_a_name
from training.prior.transfer import PriorStart
from training.run_folder import Evaluation

THRESHOLD_PAIRS = 10_000  # that dynamic thresholding takes its percentile from


def _cluster(
    config: PriorTrainConfig, data: EmbeddingSet, training_rows: Tensor
) -> ClusterStats | None:
    """Clusters of the training images, by the mask of their rows; None for a process with one
    Gaussian.
    """
    if config.prior.process != "clusters":
        return None
    images = Batches(data.image.take(training_rows))
    return cluster(
        images if distributed.is_main_process() else [],  # each row counts once
        config.prior.num_clusters,
        dim=data.image.shape[1],
        covariance_type=config.prior.cluster_covariance,
        encoder_id=data.encoder_id,
        seed=config.seed,
    )


class PriorTrainer:
    """One denoising step a batch, which the processes of torchrun share; statistics come from all
    training images, pairs from the captioned ones.
    """

    waited = 0.0  # seconds for embeddings on disk, so far

    def __init__(
        self,
        config: PriorTrainConfig,
        data: EmbeddingSet,
        *,
        device: torch.device,
        start: PriorStart | None = None,
    ):
        self.config, self.data, self.device = config, data, device
        self.batch = config.batch
        if config.batch % distributed.world_size():
            raise InputError(
                f"A batch of {config.batch} is not shared evenly by {distributed.world_size()} "
                "processes. Choose another --batch-size."
            )
        training_rows = (
            ~data.held_out if config.hold_out else torch.ones(len(data), dtype=torch.bool)
        )
        is_training = training_rows[data.caption_image]
        self.training = torch.nonzero(is_training).flatten()  # caption indices
        others = torch.nonzero(~is_training).flatten()
        self.held_out = one_a_name(data, others, most=config.max_evaluation)
        few = few_samples_note(len(self.held_out), data.image.shape[1])
        self.notes = [few] if few and len(self.held_out) else []  # lines to show
        if len(self.training) < 2:
            held_out = (
                f"; {len(others)} more are held out, as names that differ by a number alone are "
                "one, and --set hold_out=false trains on them"
            )
            raise InputError(
                f"Only {len(self.training)} captioned images to train on"
                f"{held_out if len(others) else ''}. Add captions: metadata.jsonl with "
                f'{{"file_name", "text"}} lines, or a .txt beside each image, then run '
                "`lafite-shifted embed` again."
            )
        torch.manual_seed(seeds.seed_of(config.seed, "prior weights"))
        stats, clusters = data.stats(training_rows), _cluster(config, data, training_rows)
        self.prior = Prior(config.prior, stats, clusters).to_device(device)
        if start is not None:
            start.apply(self.prior.network)
        self.times = torch.tensor(self.prior.times)
        order = torch.randperm(len(self.training), generator=seeds.generator(config.seed, "limit"))
        shown = self.training[order[:THRESHOLD_PAIRS]]
        z0, text = data.image[data.caption_image[shown]], data.text[shown]
        self.prior.threshold_quantile = self.prior.whitened_quantile(z0.to(device), text.to(device))
        self.ema = Ema(self.prior.network, half_life=config.ema_half_life_kimg * 1000)
        self.ema_prior = Prior(
            config.prior, stats, clusters, threshold_quantile=self.prior.threshold_quantile
        )
        self.ema_prior.to_device(device)
        self.ema_prior.network = self.ema.network
        self.prior.compute_dtype = self.ema_prior.compute_dtype = pick_dtype(config.dtype, device)
        self.optimizer = AdamW(
            self.prior.network.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            eps=config.epsilon,
            fused=True,
        )

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        """Everything with state, by name."""
        return {"network": self.prior.network, "ema": self.ema.network, "optimizer": self.optimizer}

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        """One denoising step; scalars to log."""
        config, device = self.config, self.device
        positions = distributed.shard(range(samples_seen, samples_seen + self.batch))
        order = seeds.epoch_indices(positions, size=len(self.training), key=(config.seed, "pairs"))
        captions, start = self.training[order], time.perf_counter()
        text = self.data.text_features(captions)
        z0 = self._sent(self.data.image[self.data.caption_image[captions]])
        self.waited += time.perf_counter() - start
        text = text.to(device)
        random_numbers = self._random_numbers(positions, dim=z0.shape[1])
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(
                1.0, (samples_seen / 1000 + 1e-3) / config.warmup_kimg
            )
        self.prior.network.train()
        loss = self.prior.loss(z0, text, **random_numbers).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.all_reduce_mean(p.grad for p in self.prior.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.prior.network.parameters(), config.gradient_norm)
        self.optimizer.step()
        self.ema.update(
            self.prior.network, batch=self.batch, samples_seen=samples_seen + self.batch
        )
        return {"loss": loss.detach(), "gradient_norm": norm}

    def _random_numbers(self, positions: range, *, dim: int) -> dict[str, Tensor]:
        """Random numbers of the loss of the samples at these positions."""
        config = self.config
        is_energy = config.prior.objective == "energy"
        uniform = seeds.uniform_per_sample((2,), key=(config.seed, "time"), indices=positions)
        num_times = 1 if is_energy else config.timesteps_per_pair
        # the times of one pair are spread evenly
        place = (uniform[:, :1] + torch.arange(num_times) / num_times) % 1  # [N, R]
        here = {
            "t": self.times[(place * len(self.times)).long()],
            "positions": torch.tensor(positions),
        }
        found = send(here, self.device)
        there = found.pop("positions")

        def normal(what: str, *shape: int) -> Tensor:
            return seeds.normal_per_sample(shape, key=(config.seed, what), indices=there)

        found["noise"] = normal("noise", num_times, dim)
        if is_energy:
            found["sample_noise"] = normal("sample_noise", 1, config.timesteps_per_pair, dim)
        return found | {"has_text": uniform[:, 1] >= config.text_dropout}

    def _sent(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the device, which is not waited for."""
        return to_device(tensor, self.device)

    def sample(
        self, captions: Tensor, *, sampling: SamplerConfig | None = None, num_samples: int = 1
    ) -> Tensor:
        """Embeddings [num_samples, m, D] on the CPU that the EMA prior samples for these captions,
        the i-th with seeds i, m + i, ...
        """
        prior, parts, m = self.config.prior, [], len(captions)
        most = prior.step_budget or prior.schedule.num_steps
        sampling = sampling or SamplerConfig(min(self.config.evaluation_steps, most))
        for start in range(0, m, 500):
            part = captions[start : start + 500]
            text = self.data.text_features(part).to(self.device)
            encoded = self.ema_prior.encode_text(text, guided=sampling.guidance != 1.0)
            found = [
                sample_embeddings(
                    self.ema_prior,
                    encoded,
                    sample_seeds=range(number * m + start, number * m + start + len(part)),
                    sampling=sampling,
                )
                for number in range(num_samples)
            ]
            parts.append(on_host(torch.stack(found), HostRead.EVALUATION))
        return torch.cat(parts, dim=1)

    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        """On held-out captions, one a name: cosine to the true image embedding, Frechet distance of
        the sets, energy score and cosine of two samples, beside what the text embedding itself
        reaches; writes the EMA prior to `folder/prior`, and to `folder/best/prior` where its
        kernel distance is the smallest so far.
        """
        training = {
            "kimg": round(samples_seen / 1000, 3),
            "num_images": self.prior.stats.count,
            "num_captions": len(self.training),
            "hold_out": self.config.hold_out,
        }
        save_prior(folder / "prior", self.ema_prior, training=training)
        metrics = self._same_cluster()
        if len(self.held_out) < 3:
            return Evaluation(metrics)
        true = self.data.image[self.data.caption_image[self.held_out]]
        predicted, again = self.sample(self.held_out, num_samples=2)
        text = self.data.text[self.held_out]
        kernel = kernel_distance(predicted, true, paired=True)
        if kernel < best_metric(folder / "best" / "prior", "held_out_kid_clip"):
            found = training | {"held_out_kid_clip": kernel}
            save_prior(folder / "best" / "prior", self.ema_prior, training=found)
        by_clip = self.data.encoder_id.cosines(predicted, true)
        if len(by_clip) > 1:
            metrics |= {f"held_out_clip_i_sim_clip_{i}": c for i, c in enumerate(by_clip, start=1)}
        return Evaluation(
            metrics
            | {
                "held_out_clip_i_sim": mean_cosine(predicted, true),
                "held_out_fd_clip": set_distance(predicted, true),
                "held_out_kid_clip": kernel,
                "held_out_energy": float(
                    energy_score(torch.stack([predicted, again], 1), true).mean()
                ),
                "held_out_same_text_cosine": mean_cosine(predicted, again),
                "text_itself_clip_i_sim": mean_cosine(text, true),
                "text_itself_fd_clip": set_distance(text, true),
            }
        )

    def _same_cluster(self) -> dict[str, float]:
        """With clusters: the share of pairs whose text chooses the cluster that its image would."""
        clusters, found = self.ema_prior.clusters, {}
        if clusters is None:
            return found
        for name, captions in (("training", self.training), ("held_out", self.held_out)):
            total = torch.zeros((), dtype=torch.long, device=self.device)
            for part in captions.split(BATCH):
                text, image = self.data.text[part], self.data.caption_image[part]
                pairs = self._sent(text), self._sent(self.data.image[image])
                total += same_cluster(clusters, *pairs).sum()
            if len(captions):
                (count,) = numbers([total], HostRead.EVALUATION)
                found[f"same_cluster_{name}"] = count / len(captions)
        return found
