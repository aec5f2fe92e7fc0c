"""Mean regression: the image embedding expected of a text embedding, by linear regression.

It answers whether a prior is worth its steps: the best predictor on average is no sample of what
is true given the text. Shape letters: m pairs, N texts, D embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host

PENALTIES = tuple(10.0**power for power in range(-4, 3))  # of the mean eigenvalue


@dataclass(frozen=True)
class MeanRegression:
    """Ridge regression of unit image embeddings on unit text embeddings; float64."""

    text_mean: Tensor  # [D]
    image_mean: Tensor  # [D]
    weight: Tensor  # [D, D]
    penalty: float  # times the mean eigenvalue of the texts' covariance

    @staticmethod
    def fit(text: Tensor, image: Tensor) -> "MeanRegression":
        """Of pairs [m, D]; of PENALTIES the one with the smallest leave-one-out error, in closed
        form (Allen 1974, PRESS). InputError below 3 pairs.
        """
        if len(text) < 3:
            raise InputError(
                f"A regression needs at least 3 captioned training images, there are {len(text)}. "
                "Add captions."
            )
        means = text.double().mean(dim=0), image.double().mean(dim=0)
        x, y = text.double() - means[0], image.double() - means[1]
        values, vectors = torch.linalg.eigh(x.T @ x)
        values = values.clamp(min=0)
        along, cross = x @ vectors, vectors.T @ (x.T @ y)  # [m, D], [D, D]
        errors, weights = list[float](), list[Tensor]()
        for penalty in PENALTIES:
            shrunk = 1 / (values + penalty * values.mean().clamp(min=1e-12))
            weights.append(vectors @ (shrunk[:, None] * cross))
            leverage = 1 / len(x) + (along.square() * shrunk).sum(dim=1)  # [m]
            left_out = (y - x @ weights[-1]) / (1 - leverage).clamp(min=1e-9)[:, None]
            errors.append(float(left_out.square().mean()))
        best = min(range(len(errors)), key=errors.__getitem__)
        return MeanRegression(*means, weights[best], PENALTIES[best])

    def predict(self, text: Tensor, encoder_id: EncoderId) -> Tensor:
        """Unit image embeddings [N, D] float32 of unit text embeddings [N, D]."""
        x = on_host(text, HostRead.EVALUATION).double() - self.text_mean
        mean = self.image_mean + x @ self.weight
        return encoder_id.normalise(mean.float())
