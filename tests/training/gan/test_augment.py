"""The transformations of the augmentation: what each does to an image, how strongly, and their
gradients.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.gan.augmented import EVERYTHING, SIZE, applied, blobs, images, only, uniform
from training.gan.augment.config import AUGMENTATIONS, AugmentConfig
from training.gan.augment.corruption import BAND_POWER, bands
from training.gan.augment.geometry import SYM6


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres (across, down) and spreads (across, down) of hills, in sides of the image."""
    places = (torch.arange(SIZE, dtype=torch.float64) + 0.5) / SIZE - 0.5
    weight = x[:, 0].clamp(min=0)
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    columns, rows = weight.sum(dim=1), weight.sum(dim=2)
    across, down = columns @ places, rows @ places
    spread_across = (columns @ places.square() - across.square()).sqrt()
    return across, down, spread_across, (rows @ places.square() - down.square()).sqrt()


def same_shape(sample: Tensor, quantiles: Tensor) -> None:
    """A sample's quantiles are those of a distribution, within the spread of the estimate."""
    found = sample.double().quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double())
    scale = float(quantiles[-1] - quantiles[0])
    assert (found - quantiles).abs().max() < 0.06 * scale


# quantiles at .1, .25, .5, .75, .9
NORMAL = torch.tensor([-1.2816, -0.6745, 0.0, 0.6745, 1.2816]).double()
EVEN = torch.tensor([-0.8, -0.5, 0.0, 0.5, 0.8]).double()


# --- the filters


def test_the_wavelet_gives_images_back():
    """Orthonormal to its own shifts by two, which is what perfect reconstruction needs, and blind
    to polynomials of degree below 6 in its mirror filter.
    """
    h = np.array(SYM6)
    for shift in range(0, len(h), 2):
        expected = 1.0 if shift == 0 else 0.0
        assert np.dot(h[shift:], h[: len(h) - shift]) == pytest.approx(expected, abs=1e-12)
    mirror = h[::-1] * (-1.0) ** np.arange(len(h))
    for degree in range(6):
        assert np.dot(mirror, np.linspace(-1, 1, len(h)) ** degree) == pytest.approx(0, abs=1e-9)


def test_bands_add_up_to_the_image_and_keep_to_their_octaves():
    taps = bands()
    whole = torch.zeros(taps.shape[1], dtype=taps.dtype)
    whole[taps.shape[1] // 2] = 1.0
    torch.testing.assert_close(taps.sum(dim=0), whole, rtol=0, atol=1e-15)
    response = torch.fft.rfft(torch.nn.functional.pad(taps, [0, 1024])).abs()
    octaves = torch.linspace(0, 1, response.shape[1])  # 1: the highest frequency
    edges = [(0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1)]
    for row, (low, high) in zip(response, edges, strict=True):
        peak = octaves[row.argmax()]
        assert low <= peak <= high
        middle = (octaves > low + 0.02) & (octaves < high - 0.02)
        assert row[middle].mean() > 3 * row[~middle].mean()


# --- each transformation


def test_a_flip_is_a_flip():
    x = blobs(200, across=0.2, down=0.1)
    found = applied(x, only(flip=1.0))
    kept, flipped = ((found - y).abs().flatten(1).max(dim=1).values < 0.01 for y in (x, x.flip(3)))
    assert (kept ^ flipped).all()
    assert 70 < int(flipped.sum()) < 130
    assert found[kept].equal(x[kept])  # bit for bit


def test_turns_are_quarter_turns():
    x = blobs(400, across=0.25, down=0.1)
    across, down, *_ = moments(applied(x, only(turn=1.0)))
    before = torch.stack(moments(x)[:2], dim=1)[0]
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    places = torch.stack([torch.linalg.matrix_power(quarter, k) @ before for k in range(4)])
    distance = torch.cdist(torch.stack([across, down], dim=1), places)
    assert distance.min(dim=1).values.max() < 2e-3
    assert distance.argmin(dim=1).bincount(minlength=4).min() > 60


def test_shifts_are_whole_pixels_up_to_an_eighth():
    x = blobs(600)
    for moved in moments(applied(x, only(shift=0.125)))[:2]:
        pixels = moved * SIZE
        assert (pixels - pixels.round()).abs().max() < 0.02
        counts = pixels.round().long().add(4).bincount(minlength=9)
        assert len(counts) == 9
        assert counts[1:-1].min() > 40
        assert counts[[0, -1]].min() > 15  # rounding halves the two ends


def test_scale_has_its_spread():
    _, _, across, down = moments(applied(blobs(1000), only(scale=0.2)))
    torch.testing.assert_close(across, down, rtol=2e-2, atol=0)
    same_shape((across / moments(blobs(1))[2]).log2(), 0.2 * NORMAL)


def test_stretching_keeps_the_area():
    *_, across, down = moments(applied(blobs(1000), only(stretch=0.2)))
    round_one = moments(blobs(1))[2]
    change = (across * down / round_one.square()).log2().abs()
    assert change.quantile(0.95) < 0.03  # the rest: the mirrored border comes into sight
    same_shape((across / down).log2() / 2, 0.2 * NORMAL)


def test_rotations_are_even():
    """Before and after the stretching: with probability 1 the first always, the second always."""
    x = blobs(1000, across=0.15)
    across, down, *_ = moments(applied(x, only(rotate=1.0)))
    assert (across.hypot(down) - 0.15).abs().max() < 4e-3
    turned = torch.atan2(down, across) / torch.pi
    same_shape(turned, EVEN)


def test_a_little_rotation_stays_little():
    x = blobs(500, across=0.2)
    across, down, *_ = moments(applied(x, only(rotate=0.1)))
    assert (torch.atan2(down, across) / torch.pi).abs().max() < 0.2  # two of .1
    assert (torch.atan2(down, across) / torch.pi).abs().max() > 0.12


def test_drift_has_its_spread():
    moved = moments(applied(blobs(1000), only(drift=0.05)))[:2]
    for part in moved:
        same_shape(part, 0.05 * NORMAL)


def test_brightness_is_added_to_all():
    x = images(1000, size=8)
    added = applied(x, only(brightness=0.2)) - x
    assert added.flatten(1).std(dim=1).max() < 1e-12
    same_shape(added[:, 0, 0, 0], 0.2 * NORMAL)


def test_contrast_is_a_factor():
    x = images(1000, size=8)
    factor = applied(x, only(contrast=0.5)) / x
    assert factor.flatten(1).std(dim=1).max() < 1e-9
    same_shape(factor[:, 0, 0, 0].log2(), 0.5 * NORMAL)


def test_the_luma_flip_changes_light_and_dark_and_no_hue():
    x = images(100, size=8)
    found = applied(x, only(luma_flip=1.0))
    grey, other = x.mean(dim=1, keepdim=True), found.mean(dim=1, keepdim=True)
    torch.testing.assert_close(found - other, x - grey)
    flipped = (other + grey).abs().flatten(1).max(dim=1).values < 1e-12
    kept = (other - grey).abs().flatten(1).max(dim=1).values < 1e-12
    assert (flipped ^ kept).all()
    assert 30 < int(flipped.sum()) < 70


def test_hues_turn_about_grey():
    x = torch.tensor([1.0, -1.0, 0.0]).double().view(1, 3, 1, 1).expand(1000, 3, 8, 8)
    found = applied(x, only(hue=1.0))
    torch.testing.assert_close(found.mean(dim=1), x.mean(dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.norm(dim=1), x.norm(dim=1))
    first = torch.tensor([1.0, -1.0, 0.0]).double() / 2**0.5
    second = torch.linalg.cross(torch.ones(3).double() / 3**0.5, first)
    pixel = found[:, :, 0, 0]
    same_shape(torch.atan2(pixel @ second, pixel @ first) / torch.pi, EVEN)


def test_saturation_scales_what_is_not_grey():
    x = images(1000, size=8)
    found = applied(x, only(saturation=1.0))
    torch.testing.assert_close(found.mean(dim=1), x.mean(dim=1), rtol=0, atol=1e-12)
    factor = (found - found.mean(dim=1, keepdim=True)) / (x - x.mean(dim=1, keepdim=True))
    assert (factor.flatten(1).std(dim=1) / factor.flatten(1).mean(dim=1)).max() < 1e-6
    same_shape(factor[:, 0, 0, 0].log2(), NORMAL)


def test_the_filter_keeps_the_expected_power():
    """The gains of the bands, found from the answer to a point, weigh 1 with natural images'
    power.
    """
    x = torch.zeros(300, 3, 96, 96).double()
    x[:, :, 48, 48] = 1.0
    answer = torch.fft.fft2(applied(x, only(filter=1.0))[:, 0]).abs()
    frequencies = torch.tensor([0, 6, 24, 48])  # of 96: one in each band
    along_row = answer[:, 0, frequencies] / answer[:, :1, 0].sqrt()
    padded = torch.nn.functional.pad(bands(), [0, 96 - bands().shape[1]])
    response = torch.fft.fft(padded).abs()[:, frequencies]  # [B, 4]: linear phase, all the same
    gains = torch.linalg.solve(response.T, along_row.T).T
    power = gains.square() @ torch.tensor(BAND_POWER).double()
    torch.testing.assert_close(power, torch.ones(300).double())
    assert (gains.log2().std(dim=0) > 0.2).all()


def test_the_filter_leaves_a_level_image_in_the_lowest_band():
    x = torch.ones(50, 3, 64, 64).double()
    found = applied(x, only(filter=1.0))
    assert found.flatten(1).std(dim=1).max() < 1e-9  # a level image stays level
    assert found[:, 0, 0, 0].std() > 0.1


def test_noise_has_a_spread_of_its_own_in_each_image():
    x = torch.zeros(600, 3, 32, 32).double()
    spread = applied(x, only(noise=0.1)).flatten(1).std(dim=1)
    expected = torch.tensor([0.1257, 0.3186, 0.6745, 1.1503, 1.6449]).double()  # |normal|
    same_shape(spread, 0.1 * expected)


def test_a_square_of_half_the_side_is_cut_out():
    x = torch.ones(400, 3, SIZE, SIZE).double()
    found = applied(x, only(cutout=0.5))
    cut = found[:, 0] == 0
    assert ((found == 0) | (found == 1)).all()
    assert int(cut.flatten(1).sum(dim=1).max()) == (SIZE // 2) ** 2
    # of a side [u - 1/4, u + 1/4] covers 7/16 within the image, on average
    share = cut.double().mean()
    assert float(share) == pytest.approx((7 / 16) ** 2, rel=0.1)


# --- gradients


@pytest.mark.parametrize("config", [EVERYTHING, AUGMENTATIONS["diffaugment"]], ids=["ada", "diff"])
def test_it_is_twice_differentiable(config: AugmentConfig):
    x = images(2, size=8).requires_grad_()
    draws = uniform(2, seed=5)

    def run(x: Tensor) -> Tensor:
        return applied(x, config, numbers=draws)

    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(lambda x: run(x).square(), x)
