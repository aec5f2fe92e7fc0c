"""Model folders: what is packed comes back, and what does not belong together is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import write_json
from lafite_shifted.model_folder import (
    FORMAT,
    best_metric,
    find_part,
    load_generator,
    load_prior,
    model_hash,
    save_generator,
    save_prior,
)
from lafite_shifted.packing import pack_model
from tests.commands import half_written

CPU = torch.device("cpu")


@pytest.fixture
def other_prior_run(prior_run: Path, tmp_path: Path) -> Path:
    """The prior run as if another CLIP had made its embeddings."""
    folder = Path(shutil.copytree(prior_run, tmp_path / "other-prior"))
    config = folder / "prior" / "config.json"
    record = json.loads(config.read_text(encoding="utf-8"))
    record["encoder"][0] |= {"weights": "0123456789abcdef", "model": "another-clip"}
    config.write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_generator_returns_as_it_was_saved(gan_run: Path, tmp_path: Path):
    first = load_generator(gan_run / "generator", device=CPU)
    stats = EmbeddingStats.load(gan_run / "generator" / "stats.safetensors")
    save_generator(tmp_path / "again", first.network.generator, stats, training=first.training)
    second = load_generator(tmp_path / "again", device=CPU)
    assert second.network.config == first.network.config
    assert second.encoder_id == first.encoder_id
    assert second.training == first.training == first.training | {"num_images": stats.count}
    torch.testing.assert_close(
        second.network.state_dict(), first.network.state_dict(), rtol=0, atol=0
    )
    torch.testing.assert_close(second.gaussian.mean, first.gaussian.mean, rtol=0, atol=0)
    assert not second.network.generator.training


def test_prior_returns_as_it_was_saved(prior_run: Path, tmp_path: Path):
    first = load_prior(prior_run / "prior", device=CPU)
    save_prior(tmp_path / "again", first.prior, training=first.training)
    second = load_prior(tmp_path / "again", device=CPU)
    assert second.prior.config == first.prior.config
    weights = second.prior.network.state_dict()
    torch.testing.assert_close(weights, first.prior.network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(second.prior.stats.m2, first.prior.stats.m2, rtol=0, atol=0)


def test_hash_is_of_the_weights_not_of_the_files(gan_run: Path, tmp_path: Path):
    loaded = load_generator(gan_run / "generator", device=CPU)
    stats = EmbeddingStats.load(gan_run / "generator" / "stats.safetensors")
    for number in range(8):  # safetensors orders its header at random
        save_generator(
            tmp_path / str(number) / "generator", loaded.network.generator, stats, training={}
        )
    assert len({model_hash(tmp_path / str(number)) for number in range(8)}) == 1
    with torch.no_grad():
        loaded.network.generator.constant[0, 0, 0, 0] += 1e-6
    save_generator(tmp_path / "x" / "generator", loaded.network.generator, stats, training={})
    assert model_hash(tmp_path / "x") != model_hash(tmp_path / "0")


def test_statistics_without_encoder_cannot_be_saved(gan_run: Path, tmp_path: Path):
    network = load_generator(gan_run / "generator", device=CPU).network.generator
    with pytest.raises(ValueError, match="without an encoder id"):
        save_generator(tmp_path / "x", network, EmbeddingStats(None, dim=128), training={})
    assert list(tmp_path.iterdir()) == []


def test_pack_joins_both_parts(gan_run: Path, prior_run: Path, tmp_path: Path):
    pack_model(tmp_path / "model", gan=gan_run, prior=prior_run)
    for part in (gan_run / "generator", prior_run / "prior"):
        for file in part.iterdir():
            assert (tmp_path / "model" / part.name / file.name).read_bytes() == file.read_bytes()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "16 x 16 pixels" in card
    assert "`starter`" in card
    assert "prior (shifted process) turns text into an image embedding" in card
    assert half_written(tmp_path) == []


def test_pack_without_prior(gan_run: Path, tmp_path: Path):
    pack_model(tmp_path / "model", gan=gan_run, prior=None)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "generator"]
    assert "There is no prior" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_model_folders_can_be_packed_anew(model_folder: Path, prior_run: Path, tmp_path: Path):
    """So that another prior replaces that of a model which was packed before."""
    pack_model(tmp_path / "again", gan=model_folder, prior=model_folder)
    assert model_hash(tmp_path / "again") == model_hash(model_folder)
    pack_model(tmp_path / "bare", gan=model_folder, prior=None)
    assert model_hash(tmp_path / "bare") != model_hash(model_folder)


def test_pack_refuses_another_encoder(gan_run: Path, other_prior_run: Path, tmp_path: Path):
    out = tmp_path / "model"
    with pytest.raises(InputError, match=r"another-clip .*Train the prior on embeddings"):
        pack_model(out, gan=gan_run, prior=other_prior_run)
    assert not out.exists()


def test_pack_refuses_an_existing_folder(gan_run: Path, tmp_path: Path):
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"exists already\. Choose another --out"):
        pack_model(tmp_path / "model", gan=gan_run, prior=None)
    assert list((tmp_path / "model").iterdir()) == []


def test_missing_parts_say_which_training_makes_them(gan_run: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"does not exist.*train-gan"):
        find_part(tmp_path / "none", "generator")
    with pytest.raises(InputError, match=r"does not exist.*train-prior"):
        find_part(tmp_path / "none", "prior")
    with pytest.raises(InputError, match=r"holds no prior yet"):
        find_part(gan_run, "prior")


def test_a_part_of_the_other_kind_is_refused(gan_run: Path, prior_run: Path, tmp_path: Path):
    out = tmp_path / "model"
    with pytest.raises(InputError, match="holds no"):
        pack_model(out, gan=prior_run / "prior", prior=None)
    with pytest.raises(InputError, match="holds no"):
        pack_model(out, gan=gan_run, prior=gan_run / "generator")
    assert not out.exists()


def test_damaged_parts_are_refused(model_folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(model_folder, tmp_path / "broken"))
    weights = broken / "generator" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"weights\.safetensors is truncated"):
        load_generator(broken / "generator", device=CPU)
    (broken / "prior" / "stats.safetensors").unlink()
    with pytest.raises(InputError, match=r"stats\.safetensors does not exist"):
        load_prior(broken / "prior", device=CPU)


def test_weights_of_another_size_are_refused(model_folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(model_folder / "generator", tmp_path / "generator"))
    record = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    record["config"]["resolution"] = 32
    (broken / "config.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=r"weights\.safetensors lacks 'layers"):
        load_generator(broken, device=CPU)


@pytest.mark.parametrize("change", [{"format": 99}, {"kind": "prior"}])
def test_another_format_is_refused(model_folder: Path, tmp_path: Path, change: dict):
    broken = Path(shutil.copytree(model_folder / "generator", tmp_path / "generator"))
    record = json.loads((broken / "config.json").read_text(encoding="utf-8")) | change
    (broken / "config.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=f"holds no generator of format {FORMAT}"):
        load_generator(broken, device=CPU)


def test_best_metric_counts_only_against_the_same_reference(tmp_path: Path):
    assert best_metric(tmp_path, "fd_clip") == float("inf")
    training = {"fd_clip": 0.5, "reference": {"images": 8, "hash": "a"}}
    write_json(tmp_path / "config.json", {"training": training})
    assert best_metric(tmp_path, "fd_clip", reference={"images": 8, "hash": "a"}) == 0.5
    for other in ({"images": 9, "hash": "a"}, {"images": 8, "hash": "b"}, None):
        assert best_metric(tmp_path, "fd_clip", reference=other) == float("inf")
