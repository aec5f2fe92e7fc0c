"""A step of a training on a GPU mixes no devices, and waits for no number of the GPU: what the host
must know it learns two steps later (torch_utils/lagged.py), or at the log interval. Evaluation,
generation and `embed` read what is in the one list of reads, and nothing else.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.fake_cuda import (
    CUDA,
    fake_cuda,
    in_a_process_of_its_own,
    no_waiting,
    noted_host_reads,
)
from torch_utils.host_reads import HostRead
from torch_utils.lagged import LAG
from training.log_sums import LogSums

EVERY_TERM: dict[str, Any] = {
    "clip_weight": 0.3,
    "r2": True,
    "path_length_weight": 2.0,
    "mismatch_weight": 0.5,
    "caption_share": 0.5,
    "r1_every": 1,
    "path_length_every": 1,
    "dtype": "float32",
    "micro_batch": 8,
}


def training_of_a_gan(**changes: Any) -> None:
    """Steps, the log, an evaluation."""
    from lafite_shifted.encoders.clip import ClipEncoder
    from tests.training.gan.trainers import SMALL, data_of
    from torch_utils.ops import native
    from training.gan.trainer import GanTrainer

    native.choose("reference")
    clip = ClipEncoder.load("starter")
    data = data_of(clip)
    config = dataclasses.replace(SMALL, **EVERY_TERM, **changes)
    with fake_cuda(), noted_host_reads() as reads, tempfile.TemporaryDirectory() as folder:
        clip.to(CUDA)
        trainer = GanTrainer(config, data, clip, device=CUDA)
        trainer.augment.probability = config.augment.probability
        assert reads == []
        sums = LogSums()
        with no_waiting():
            for step in range(LAG + 1):
                logged = trainer.step(step * trainer.batch)
                sums.add(logged)
        assert set(reads) == {HostRead.LAGGED}  # of which nothing is waited for
        assert {value.device for name, value in logged.items() if "loss" in name} == {CUDA}
        sums.means()
        assert set(reads) == {HostRead.LAGGED, HostRead.LOG}
        reads.clear()
        with no_waiting():
            evaluation = trainer.evaluate(1000, Path(folder))
        assert set(reads) == {HostRead.FILE, HostRead.IMAGES, HostRead.EVALUATION}
        assert {value.device for value in evaluation.histograms.values()} > {CUDA}
        assert "training_kid_clip" in evaluation.metrics


def plain_gan() -> None:
    training_of_a_gan()


def gan_with_every_augmentation() -> None:
    from training.gan.augment.config import AugmentConfig

    training_of_a_gan(
        adversarial="relativistic",
        augment=AugmentConfig("fixed", filter=1.0, noise=0.1, cutout=0.5),
    )


def gan_in_float16() -> None:
    from torch_utils.loss_scale import LossScale

    with fake_cuda(), no_waiting():
        scale = LossScale(torch.float16)
        there = LossScale(torch.float16)
        for name, buffer in scale.named_buffers():
            setattr(there, name, torch.zeros_like(buffer, device=CUDA))
        there.update(torch.zeros((), device=CUDA))
        there.update(torch.ones((), device=CUDA))
        assert there.scale.device == CUDA


def training_of_a_prior() -> None:
    """Steps and an evaluation, by each objective and process."""
    from torch_utils.ops import native
    from training.data.embeddings.embedding_set import EmbeddingSet
    from training.data.synthetic_cone import write_cone
    from training.prior.presets import PRIOR_PRESETS
    from training.prior.trainer import PriorTrainer

    native.choose("reference")
    tiny = PRIOR_PRESETS["tiny"]
    with tempfile.TemporaryDirectory() as folder:
        write_cone(Path(folder), num_names=60)
        data = EmbeddingSet(Path(folder))
        for objective, process in (("mse", "shifted"), ("mse", "clusters"), ("energy", "shifted")):
            prior = dataclasses.replace(
                tiny.prior,
                embed_dim=data.encoder_id.dim,
                token_width=data.token_width,
                context_length=data.context_length,
                objective=objective,  # type: ignore[arg-type]
                process=process,  # type: ignore[arg-type]
                num_clusters=4,
                width=32,
                depth=1,
                heads=2,
            )
            config = dataclasses.replace(tiny, prior=prior, batch=8)
            with fake_cuda(), noted_host_reads() as reads:
                trainer = PriorTrainer(config, data, device=CUDA)
                assert set(reads) <= {HostRead.START, HostRead.STATISTICS}
                reads.clear()
                with no_waiting():
                    logged = trainer.step(0)
                    assert reads == []
                    assert {value.device for value in logged.values()} == {CUDA}
                    metrics = trainer.evaluate(8, Path(folder) / "run").metrics
                assert set(reads) == {HostRead.FILE, HostRead.EVALUATION}
                assert ("same_cluster_training" in metrics) == (process == "clusters")


def samples_of_a_prior() -> None:
    """By each sampler, with and without guidance, of the shifted and of the baseline process."""
    from lafite_shifted.encoders.text_features import TextFeatures
    from lafite_shifted.prior.network import PriorConfig
    from lafite_shifted.prior.prior import Prior
    from lafite_shifted.prior.sample_embeddings import sample_embeddings
    from lafite_shifted.prior.samplers import SamplerConfig
    from torch_utils.ops import native

    native.choose("reference")
    sizes = {"width": 32, "depth": 1, "heads": 2, "embed_dim": 16, "token_width": 8}
    for process in ("shifted", "baseline"):
        config = PriorConfig(process=process, context_length=6, **sizes)  # type: ignore[arg-type]
        with fake_cuda(), noted_host_reads() as reads:
            prior = Prior(config, EmbeddingStats.of(torch.randn(64, 16))).to_device(CUDA)
            prior.threshold_quantile = 2.0
            lengths = torch.tensor([2, 6, 3])
            text = TextFeatures(torch.randn(3, 16), torch.randn(3, 6, 8), lengths).to(CUDA)
            for sampler in ("ancestral", "ddim", "dpm++"):
                sampling = SamplerConfig(
                    3,
                    sampler=sampler,  # type: ignore[arg-type]
                    guidance=2.0,
                    dynamic_threshold=True,
                    best_of=2,
                )
                with no_waiting():
                    found = sample_embeddings(prior, text, sample_seeds=range(3), sampling=sampling)
                assert (found.device, tuple(found.shape)) == (CUDA, (3, 16))
            assert reads == []


def images_of_a_model() -> None:
    """As `generate` makes them, from sentences to pixels, which leave the device at the end."""
    from lafite_shifted.decoder import graphs
    from tests.small_model import small_model
    from torch_utils.ops import native

    native.choose("reference")
    with pytest.MonkeyPatch.context() as patch, fake_cuda(), noted_host_reads() as reads:
        patch.setattr(graphs, "capture_on_cuda", lambda call, _device: (lambda: None, call()))
        model = small_model(CUDA)
        reads.clear()
        with no_waiting():
            embeddings = model.embed(["a cat", {"a cat": 0.7, "a dog": 0.3}], seeds=[3, 4])
            assert embeddings.device == CUDA
            assert set(reads) <= {HostRead.EDIT}  # of the mean of two sentences
            reads.clear()
            images = model.decode(embeddings, seeds=[3, 4], truncation=0.7)
            assert reads == [HostRead.IMAGES]
            assert (images.device.type, tuple(images.shape)) == ("cpu", (2, 16, 16, 3))
            found = model("a cat", num_images=3, batch=2)
        assert [image.size for image in found] == [(16, 16)] * 3
        assert reads == [HostRead.IMAGES] * 3  # one a batch


def embeddings_of_a_folder() -> None:
    """Images and captions, and what `stats` makes of embeddings on a GPU."""
    import shutil

    from lafite_shifted.encoders.clip import ClipEncoder
    from lafite_shifted.gaussian.cluster_stats import ClusterStats
    from tests.conftest import ASSETS
    from training.data.embeddings.embed import embed_folder
    from training.data.images import ImageSource
    from training.metrics.judges import ClipJudge

    clip = ClipEncoder.load("starter")
    with fake_cuda(), noted_host_reads() as reads, tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for number, file in enumerate(sorted((ASSETS / "images").glob("*.png"))[:5]):
            shutil.copy(file, images)
            (images / file.name).with_suffix(".txt").write_text(f"thing {number}")
        clip.to(CUDA)
        with no_waiting():
            report = embed_folder(ImageSource(images), Path(folder) / "out", clip, batch=2)
        assert report.num_embedded == 5
        assert reads.count(HostRead.EMBEDDINGS) == 1 + 2 * 3  # a shard; three batches of captions
        reads.clear()
        with no_waiting():
            features = ClipJudge(clip).features(torch.zeros(3, 16, 16, 3, dtype=torch.uint8))
        assert (features.device.type, reads) == ("cpu", [HostRead.EVALUATION])
        reads.clear()
        with no_waiting():
            rows = torch.randn(8, 16, device=CUDA)
            EmbeddingStats(None, dim=16).update(rows)
            for kind in ("diagonal", "full"):
                centroids = torch.randn(3, 16)
                ClusterStats(None, centroids, covariance_type=kind).update(rows)  # type: ignore[arg-type]
        assert reads == [HostRead.STATISTICS] * 3


PARTS = [
    *(plain_gan, gan_with_every_augmentation, gan_in_float16, training_of_a_prior),
    *(samples_of_a_prior, images_of_a_model, embeddings_of_a_folder),
]


@pytest.mark.parametrize("part", PARTS)
def test_nothing_on_a_gpu_is_waited_for(part: Callable[[], None]):
    in_a_process_of_its_own(part)


def reads() -> None:
    with fake_cuda():
        bool(torch.ones(1, device=CUDA).any())


def sends() -> None:
    with fake_cuda(), no_waiting():
        torch.ones(1).to(CUDA, non_blocking=True)
        torch.tensor([1.0], device=CUDA)


def takes_rows() -> None:
    with fake_cuda(), no_waiting():
        rows = torch.ones(3, 4, device=CUDA)
        rows[torch.tensor([2, 0]).to(CUDA, non_blocking=True)]
        rows[torch.tensor([2, 0])]


def fetches() -> None:
    with fake_cuda(), no_waiting():
        torch.ones(1, device=CUDA).cpu()


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (reads, "DataDependentOutputException"),
        (sends, "from cpu to cuda:0"),
        (takes_rows, "an index from cpu"),
        (fetches, "from cuda:0 to cpu"),
    ],
)
def test_what_waits_is_noticed(part: Callable[[], None], error: str):
    with pytest.raises(AssertionError, match=error):
        in_a_process_of_its_own(part)
