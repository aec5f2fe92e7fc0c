"""Frechet distance of Inception features (arXiv:1706.08500), as published metrics have it: by
torch-fidelity, with a local file of its weights; nothing is downloaded.

Shape letters: N images, R resolution, F features.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from lafite_shifted.encoders.encoder_id import weights_digest
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host
from torch_utils.sending import to_device

NAME = "inception-v3-compat"  # of the network, as torch-fidelity calls it
LAYER = "2048"  # features: those of the last average pooling
BATCH = 32
FILE = "weights-inception-2015-12-05-6726825d.pth"
REMEDY = f"Give the file {FILE} of https://github.com/toshas/torch-fidelity/releases."


@dataclass(frozen=True)
class Inception:
    """The network in a file that torch-fidelity reads; an `ImageJudge`, of F = 2048 features."""

    weights: Path
    digest: str
    device: torch.device
    network: nn.Module
    name: str = NAME
    filter: str = "bilinear to 299 as TensorFlow 1 does"

    @staticmethod
    def load(weights: Path, *, device: torch.device) -> "Inception":
        """InputError where the library or the file is missing, or the file is another."""
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise InputError(
                "--inception needs the package torch-fidelity. Install it: pip install "
                "'lafite-shifted[fid]'."
            ) from error
        if not weights.is_file():
            raise InputError(f"--inception {weights}: there is no such file. {REMEDY}")
        try:
            with _tensors_only():
                network = FeatureExtractorInceptionV3(NAME, [LAYER], str(weights))
        except (UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"--inception {weights}: these are no weights of Inception ({reason[:200]}). "
                f"{REMEDY}"
            ) from error
        digest = weights_digest(network.state_dict())
        return Inception(weights, digest, device, network.to(device).eval())

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N, F] float32 on the CPU, of images [N, R, R, 3] uint8."""
        parts = images.permute(0, 3, 1, 2).split(BATCH)
        found = [self.network(to_device(part.contiguous(), self.device))[0] for part in parts]
        features = torch.cat([part.float().flatten(1) for part in found])
        return on_host(features, HostRead.EVALUATION)

    def reference(self, real: Tensor) -> dict[str, int | str]:
        """What distances to the images `real` [N, 3, R, R] uint8 are measured against."""
        size = real.shape[-1]
        return {
            "images": len(real),
            "dim": int(LAYER),
            "filter": f"training images of {size} pixels, {self.filter}",
            "encoder": self.digest,
            "hash": weights_digest({"images": real}),
        }

    def distance(self, made: Tensor, real: Tensor) -> float:
        """Frechet distance of images [N, 3, R, R] uint8; compare only at equal counts."""
        from torch_fidelity import calculate_metrics

        with _tensors_only():
            found = calculate_metrics(
                input1=_Images(made),
                input2=_Images(real),
                fid=True,
                feature_extractor=NAME,
                feature_layer_fid=LAYER,
                feature_extractor_weights_path=str(self.weights),
                cuda=self.device.type == "cuda",
                cache=False,
                save_cpu_ram=True,  # no worker processes: the images are in memory
                verbose=False,
            )
        return float(found["frechet_inception_distance"])


class _Images(torch.utils.data.Dataset):
    """The rows of a tensor."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@contextmanager
def _tensors_only() -> Iterator[None]:
    """torch-fidelity unpickles the file: here PyTorch takes nothing but tensors out of it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
