"""Images far longer than the crop are cut before they are enlarged, and look the same."""

import pytest
import torch
from open_clip.transform import PreprocessCfg

from lafite_shifted.encoders import preprocessing
from lafite_shifted.encoders.preprocessing import preprocess


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(2, 301), (5, 400), (40, 2001), (700, 48), (333, 1)])
def test_the_middle_is_that_of_the_whole(height: int, width: int, monkeypatch):
    config, image = PreprocessCfg(size=32), noise(height, width)
    cut = preprocess(image, config)
    monkeypatch.setattr(preprocessing, "LONGEST_RATIO", 10**9)
    whole = preprocess(image, config)
    assert cut.shape == whole.shape == (1, 3, 32, 32)
    # rounding the longer side to whole pixels moves sampling points by half of one at most
    assert (cut - whole).abs().mean() < 0.05 * whole.std()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("height", "width"), [(1, 2_000_000), (2, 40_000), (60_000, 3)])
def test_no_thin_image_is_enlarged_whole(mode: str, height: int, width: int, monkeypatch):
    sizes, plain = [], preprocessing.F.interpolate

    def counted(levels: torch.Tensor, **options) -> torch.Tensor:
        found = plain(levels, **options)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(preprocessing.F, "interpolate", counted)
    image = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
    prepared = preprocess(image, PreprocessCfg(size=64, resize_mode=mode))
    assert prepared.shape == (1, 3, 64, 64)
    assert prepared.isfinite().all()
    assert max(sizes) <= (10**6 if mode == "shortest" else 3 * 64 * max(height, width))


def test_a_large_image_channel_by_channel_is_the_same(monkeypatch):
    config, image = PreprocessCfg(size=32), noise(90, 120)
    together = preprocess(image, config)
    monkeypatch.setattr(preprocessing, "LARGE_PIXELS", 100)
    assert preprocess(image, config).equal(together)
