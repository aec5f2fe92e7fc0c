"""What an image looks like, beside what it is called: a linear layer tells an image's thumbnail
from its embedding.

Names need few colours, so an embedding that only has to fit them forgets what the decoder's
condition must hold. (SLIP, arXiv:2112.12750, adds self-supervision to a CLIP for the same reason.)
"""

import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 8  # pixels


class ThumbnailHead(nn.Module):
    """Unit embeddings [N, D] -> thumbnails [N, 3, T, T] in [-1, 1]."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.layer = nn.Linear(embed_dim, 3 * SIDE * SIDE)

    def loss(self, embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Mean square error to the thumbnails of images [N, 3, R, R]."""
        wanted = F.adaptive_avg_pool2d(pixels, SIDE).flatten(1)
        # unit embeddings have coordinates of D^{-1/2}
        return F.mse_loss(self.layer(embeddings * embeddings.shape[1] ** 0.5), wanted)
