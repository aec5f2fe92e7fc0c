"""Evaluates a generator on held-out images, by the embeddings of the images that it generates.

Distances tell whether the images as a whole are like real ones, cosine and recall whether each
follows its condition, precision and recall of the manifold (arXiv:1904.06991) fidelity and
diversity, and the nearest training images whether it copies. A metric is compared with
others of the same real images alone, which its reference names: conditions are embeddings of the
files themselves, and a perfect generator of R pixels reaches what these images do at R pixels.

Shape letters: N images of the evaluation set, M training images, D embedding, R resolution, G
group of the minibatch standard deviation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.decoder.discriminator import Discriminator, conditional_logit
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderId, weights_digest
from lafite_shifted.io.stored_rows import Rows
from torch_utils import seeds
from torch_utils.host_reads import HostRead, on_host
from torch_utils.sending import to_device
from training.data.image_cache import ImageLoader
from training.gan.data import EVAL_SET_SIZE, GanData
from training.metrics.distances import (
    intra_set_cosine,
    kernel_distance,
    mean_cosine,
    nearest,
    neighbours,
    precision_and_recall,
    retrieval_at,
    set_distance,
)
from training.metrics.grids import conditions_grid

SHOWN = 8  # columns of the grid
FEWEST = 16  # held-out images to measure on; below it training images are taken
NEIGHBOURS = 16  # training images by which a copy is looked for among squares

Render = Callable[..., Tensor]  # (unit embeddings [N, D], first_seed=...) -> [N, R, R, 3] uint8
Embed = Callable[[Tensor], Tensor]  # images [N, R, R, 3] uint8 -> unit embeddings [N, D]
# Number of images, preprocessing of the encoder, weights of the encoder, and a hash
# of the real ones: metrics of two references are not compared.
Reference = Mapping[str, int | str]


@dataclass(frozen=True)
class EvalSet:
    """The images whose embeddings a generator is conditioned on, a fixed uniform sample."""

    where: str  # "held_out", or "training" where too few are held out
    pixels: Tensor  # [N, 3, R, R] uint8
    embeddings: Tensor  # [N, D]
    training_images: ImageLoader  # M
    training_embeddings: Rows  # [M, D]
    encoder_id: EncoderId
    own_rows: Tensor  # [N] of these images among the training ones; [0] of held-out images
    texts: Sequence[str]  # N, the first caption of each; "" where there is none, or in a training

    @staticmethod
    def of(
        data: GanData, *, count: int | None = EVAL_SET_SIZE, captioned: bool = False
    ) -> "EvalSet":
        """At most `count` of them, of those with captions if `captioned`; None: all."""

        def usable(images: ImageLoader) -> Tensor:
            if not captioned:
                return torch.arange(len(images))
            names = enumerate(images.names)
            return torch.tensor([row for row, name in names if data.texts.get(name)]).long()

        enough = len(usable(data.held_out_images)) >= FEWEST
        images = data.held_out_images if enough else data.images
        embeddings = data.held_out_embeddings if enough else data.embeddings
        among = usable(images)
        order = torch.randperm(len(among), generator=seeds.generator("asked of a generator"))
        chosen = among[order[:count]].tolist()
        images.prefetch(sorted(chosen))  # shard by shard
        rows, pixels = images.get_batch(chosen)
        images.sync()
        return EvalSet(
            "held_out" if enough else "training",
            pixels,
            embeddings[rows],
            data.images,
            data.embeddings,
            data.encoder_id,
            torch.tensor([] if enough else rows, dtype=torch.long),
            [next(iter(data.texts.get(images.names[row], [])), "") for row in rows],
        )

    @property
    def squares(self) -> Tensor:
        """The images [N, R, R, 3] uint8 as a generator would make them."""
        return self.pixels.permute(0, 2, 3, 1)

    @property
    def reference(self) -> Reference:
        """Reference of metrics of these images in CLIP space."""
        blocks = self.encoder_id.blocks
        return {
            "images": len(self.embeddings),
            "dim": self.embeddings.shape[1],
            "filter": ", ".join(block.preprocess for block in blocks),
            "encoder": ", ".join(block.weights for block in blocks),
            "hash": weights_digest({"embeddings": self.embeddings}),
        }


def gan_metrics(eval_set: EvalSet, seen: Tensor) -> dict[str, float]:
    """Metrics of the embeddings [N, D] of images generated for `eval_set`, or of real ones in their
    place.
    """
    real, among = eval_set.embeddings, eval_set.training_embeddings
    precision, recall = precision_and_recall(real, seen)
    similarity = seen @ real.T
    metrics = {
        "fd_clip": set_distance(seen, real),
        "kid_clip": kernel_distance(seen, real, paired=True),
        "clip_i_sim": mean_cosine(seen, real),
        "retrieval_1": retrieval_at(similarity, 1),
        "retrieval_10": retrieval_at(similarity, 10),
        "precision": precision,
        "recall": recall,
        "intra_set_cosine": intra_set_cosine(seen),
    }
    if eval_set.where == "training":  # who follows a condition is near to its training image
        return metrics
    return metrics | {"nearest_training_clip_i_sim": mean_cosine(seen, among[nearest(seen, among)])}


def nearest_training_similarity(eval_set: EvalSet, seen: Tensor, embed: Embed) -> float:
    """Mean cosine of embeddings [N, D] of images of R pixels to that of the training image, at
    R pixels too, that is nearest: 1 of copies. Looked for among the NEIGHBOURS of all N by the
    embeddings of the files, so that its cost does not grow with M.
    """
    count = min(NEIGHBOURS, len(eval_set.training_embeddings))
    rows = neighbours(seen, eval_set.training_embeddings, count=count).unique()  # sorted
    parts = []
    for part in rows.split(64):
        pixels = eval_set.training_images.get_batch(part.tolist()).pixels
        parts.append(embed(pixels.permute(0, 2, 3, 1)))
    among = torch.cat(parts)
    return mean_cosine(seen, among[nearest(seen, among)])


def others_of(eval_set: EvalSet) -> dict[str, Tensor] | None:
    """Rows [N] of training images outside the evaluation set, by name: `nearest` to each of those
    that are, and `unrelated` ones, a random sample without replacement. None where there are fewer
    than N.
    """
    real, among = eval_set.embeddings, eval_set.training_embeddings
    order = torch.randperm(len(among), generator=seeds.generator("unrelated"))
    unrelated = order[~torch.isin(order, eval_set.own_rows)][: len(real)]
    if len(unrelated) < len(real):
        return None
    return {"nearest": nearest(real, among, without=eval_set.own_rows), "unrelated": unrelated}


def real_metrics(eval_set: EvalSet, embed: Embed) -> dict[str, float]:
    """What real images reach: the same ones at R pixels, as a perfect generator makes them; where
    there are others, the nearest training image of each and another one; and how alike they are.
    """
    real, among = eval_set.embeddings, eval_set.training_embeddings
    same = gan_metrics(eval_set, embed(eval_set.squares))
    names = ("clip_i_sim", "fd_clip", "nearest_training_clip_i_sim")
    found = {f"real_same_{name}": same[name] for name in names if name in same}
    for name, rows in (others_of(eval_set) or {}).items():
        found[f"real_{name}_clip_i_sim"] = mean_cosine(real, among[rows])
        found[f"real_{name}_fd_clip"] = set_distance(among[rows], real)
    return found | {"real_intra_set_cosine": intra_set_cosine(real)}


@torch.no_grad()
def discriminator_logits(discriminator: Discriminator, images: Tensor, condition: Tensor) -> Tensor:
    """Logits of the discriminator for images [N, 3, R, R] uint8 under standardised conditions
    [N, D], in whole groups as in training: [N - N mod G].
    """
    group, count = discriminator.config.group, len(images)
    whole = count - count % group or count
    size = max(64 // group, 1) * group
    parts = []
    for seen, h in zip(images[:whole].split(size), condition[:whole].split(size), strict=True):
        realness, feature = discriminator(to_device(seen, h.device).float() / 127.5 - 1)
        parts.append(conditional_logit(realness, feature, h))
    return torch.cat(parts)


def embed_uint8(clip: ClipEncoder, images: Tensor) -> Tensor:
    """Unit embeddings [N, D] on the CPU of images [N, R, R, 3] uint8."""
    parts = [clip.embed_images(part.permute(0, 3, 1, 2)) for part in images.split(64)]
    return on_host(torch.cat(parts), HostRead.EVALUATION)


def grid(eval_set: EvalSet, render: Render, embed: Embed) -> Image.Image:
    """Conditioning images, three rows of samples, and the training images that are nearest to
    the first of them.
    """
    shown = min(SHOWN, len(eval_set.pixels))
    h = eval_set.embeddings[:shown]
    samples = [render(h, first_seed=1000 * k) for k in range(3)]
    closest = nearest(embed(samples[0]), eval_set.training_embeddings)
    copied = eval_set.training_images.get_batch(closest.tolist()).pixels
    return conditions_grid(eval_set.squares[:shown], [*samples, copied.permute(0, 2, 3, 1)])
