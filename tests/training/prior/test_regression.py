"""Mean regression against a loop over left-out pairs, and on pairs that have a line."""

import pytest
import torch
import torch.nn.functional as F

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.errors import InputError
from training.prior.regression import PENALTIES, MeanRegression

DIM = 6
ENCODER = EncoderId((EncoderBlock("made up", "abc", "{}", DIM),))


def pairs(count: int, *, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    weight = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    noises = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    return text, text @ weight + 2 + noise * noises


def ridge(text: torch.Tensor, image: torch.Tensor, penalty: float, new: torch.Tensor):
    """By the normal equations."""
    x, y = text - text.mean(0), image - image.mean(0)
    square = x.T @ x
    strength = penalty * torch.linalg.eigvalsh(square).mean()
    weight = torch.linalg.solve(square + strength * torch.eye(DIM, dtype=x.dtype), x.T @ y)
    return image.mean(0) + (new - text.mean(0)) @ weight


def test_it_is_ridge_regression_with_the_penalty_that_predicts_left_out_pairs_best():
    text, image = pairs(12, noise=3.0)
    found = MeanRegression.fit(text, image)
    new = torch.randn(4, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = F.normalize(ridge(text, image, found.penalty, new), dim=1).float()
    torch.testing.assert_close(found.predict(new, ENCODER), expected)

    def error(penalty: float) -> float:
        """The strength is that of all pairs, as in the closed form."""
        x = text - text.mean(0)
        strength = penalty * torch.linalg.eigvalsh(x.T @ x).mean()
        errors = []
        for row in range(12):
            others = torch.arange(12) != row
            own = text[others] - text[others].mean(0)
            scale = strength / torch.linalg.eigvalsh(own.T @ own).mean()
            left = ridge(text[others], image[others], float(scale), text[row : row + 1])
            errors.append(float((left - image[row]).square().mean()))
        return sum(errors) / 12

    assert found.penalty == min(PENALTIES, key=error)
    assert found.penalty not in (PENALTIES[0], PENALTIES[-1])


def test_pairs_on_a_line_are_predicted_exactly():
    text, image = pairs(40, noise=0.0)
    found = MeanRegression.fit(text[:30], image[:30]).predict(text[30:], ENCODER)
    torch.testing.assert_close(found, F.normalize(image[30:], dim=1).float(), rtol=0, atol=1e-3)


def test_too_few_pairs_are_refused():
    with pytest.raises(InputError, match="at least 3 captioned training images, there are 2"):
        MeanRegression.fit(*pairs(2, noise=1.0))
