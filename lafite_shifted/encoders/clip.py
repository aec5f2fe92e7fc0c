"""CLIP (arXiv:2103.00020) through open_clip: embeddings of images and texts, and the identity of
what made them.

Shape letters: N batch, C H W image, D embedding, L tokens, F width of the text tower.
"""

import copy
import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pickle import UnpicklingError

import open_clip
import safetensors
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from open_clip.utils import to_2tuple
from torch import Tensor, nn

from lafite_shifted.encoders.clip_name import (
    needs_quick_gelu,
    recorded_name,
    refuse_torchscript,
    resolve,
    weights_files,
)
from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId, weights_digest
from lafite_shifted.encoders.preprocessing import (
    describe_preprocessing,
    preprocess,
    resize,
    standardise,
)
from lafite_shifted.encoders.text_features import TOKENIZING, TextFeatures, clean_text
from lafite_shifted.encoders.text_tower import is_causal, text_features, text_lengths
from lafite_shifted.errors import InputError
from torch_utils.batch_norm import fold_batch_norms
from torch_utils.sending import to_device
from torch_utils.torch_defaults import plain_settings
from torch_utils.uninitialised import without_random_weights


class ClipEncoder:
    """One open_clip model with its tokenizer and preprocessing, frozen, in evaluation mode,
    float32.

    `load` accepts "starter", "MODEL/PRETRAINED" (an open_clip tag or a local weights file),
    "hf-hub:ORG/REPO", or a folder that holds open_clip_config.json and weights.
    """

    def __init__(self, model: CLIP | CustomTextCLIP, tokenizer, *, name: str, device: torch.device):
        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device = device
        self.preprocess_config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        self.context_length = model.context_length
        height, width = to_2tuple(self.preprocess_config.size)
        self.input_size = (height, width)
        blank = torch.zeros(1, 3, *self.input_size, device=device)
        embedding = model.encode_image(blank)
        if not embedding.isfinite().all():
            raise InputError(
                f"--clip {name}: its weights hold numbers that are not finite. Copy or download it "
                "again."
            )
        dim = embedding.shape[1]
        self.id = EncoderId((_block(model, self.preprocess_config, name=name, dim=dim),))
        self._warned_about_length = False

    @staticmethod
    def load(name: str, *, device: torch.device | str = "cpu") -> "ClipEncoder":
        """Load the CLIP called `name`; InputError says what is wrong with the name, the file or the
        network.
        """
        name = recorded_name(name)
        model_name, pretrained = resolve(name)
        for file in weights_files(model_name, pretrained):
            refuse_torchscript(file)
        try:
            with warnings.catch_warnings(), without_random_weights():
                warnings.simplefilter("ignore", FutureWarning)
                model = open_clip.create_model(
                    model_name,
                    pretrained=pretrained,
                    require_pretrained=True,
                    force_quick_gelu=needs_quick_gelu(model_name, pretrained),
                )
                tokenizer = open_clip.get_tokenizer(model_name)
        except (safetensors.SafetensorError, EOFError) as error:
            raise InputError(
                f"--clip {name}: the weights file is truncated or damaged ({error}). Copy or "
                "download it again."
            ) from error
        except UnpicklingError as error:
            raise InputError(
                f"--clip {name}: the weights file is damaged, or holds more than weights, which "
                "can run code. Download it again, or use safetensors weights."
            ) from error
        except (
            RuntimeError,
            ValueError,
            OSError,
            KeyError,
            TypeError,
            AttributeError,
            AssertionError,
        ) as error:  # what open_clip raises for files, tags, downloads and configurations
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"--clip {name}: cannot be loaded ({reason[:300]}). Check the name, the file, or "
                "the network; "
                f"`--clip starter` needs none."
            ) from error
        if not isinstance(model, CLIP | CustomTextCLIP):
            raise InputError(
                f"--clip {name}: a {type(model).__name__} is no plain CLIP. Choose another model, "
                "such as ViT-B-32/laion2b_s34b_b79k."
            )
        return ClipEncoder(model, tokenizer, name=name, device=torch.device(device))

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)
        self.__dict__.pop("_image_tower", None)
        self.device = device

    # --- images

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W], uint8 or float in [-1, 1], of any size -> the model's input [N, 3,
        S, S].

        Differentiable, on the images' device; equals open_clip's own transform to 2/255 of a
        pixel.
        """
        return preprocess(images, self.preprocess_config)

    def resize(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] uint8 -> [N, 3, S, S] uint8, which `preprocess` standardises: a
        quarter of the memory, to be kept or sent.
        """
        return resize(images, self.preprocess_config).to(torch.uint8)

    def embed_resized(self, levels: Tensor) -> Tensor:
        """Unit embeddings [N, D] float32 of what `resize` returned."""
        levels = to_device(levels, self.device)
        return self.embed_prepared(standardise(levels, self.preprocess_config))

    def embed_images(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Unit embeddings [N, D] float32 of a batch [N, 3, H, W], or of images [3, H, W] of
        various sizes.

        Gradients flow to float images; wrap in torch.no_grad() where none are wanted.
        """
        batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        prepared = torch.cat([self.preprocess(to_device(batch, self.device)) for batch in batches])
        return self.embed_prepared(prepared)

    def embed_prepared(self, prepared: Tensor) -> Tensor:
        """Unit embeddings [N, D] float32 of what `preprocess` returned."""
        prepared = to_device(prepared, self.device)
        return F.normalize(self._image_tower(prepared).float(), dim=1)

    @cached_property
    def _image_tower(self) -> nn.Module:
        """On a CPU a copy, where batch norms are folded and convolutions find channels last: the
        starter's takes half the time.
        """
        tower = self.model.visual
        norms = any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
        if self.device.type != "cpu" or not norms:
            return tower
        with plain_settings():
            tower = copy.deepcopy(tower)
            blank = torch.zeros(1, 3, *self.input_size)
            fold_batch_norms(tower, lambda: [tower(blank)])
            return tower.to(memory_format=torch.channels_last).requires_grad_(False)

    # --- texts

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> TextFeatures:
        """Features of N texts. A text beyond the context length is cut, with one warning per
        encoder.
        """
        if not texts:
            raise InputError("The list of texts is empty. Give a sentence, such as 'a red apple'.")
        texts = [clean_text(text) for text in texts]
        with TOKENIZING:
            ids = self.tokenizer(list(texts), context_length=self.context_length)  # [N, L]
        lengths = text_lengths(self.model, ids)
        self._warn_if_cut(texts, lengths)
        if is_causal(self.model):  # no token depends on those behind it
            ids = ids[:, : int(lengths.max())]
        return text_features(self.model, to_device(ids, self.device), lengths)

    def _warn_if_cut(self, texts: Sequence[str], lengths: Tensor) -> None:
        if self._warned_about_length:
            return
        for text, length in zip(texts, lengths.tolist(), strict=True):
            if length < self.context_length:
                continue
            # the byte-pair tokenizer can tell the true length
            encode = getattr(self.tokenizer, "encode", None)
            if encode is None or len(encode(text)) > self.context_length - 2:
                warnings.warn(
                    f"The text {text[:40]!r}... is longer than the {self.context_length} tokens "
                    f"that {self.id.model} reads; the rest is ignored.",
                    UserWarning,
                    stacklevel=3,
                )
                self._warned_about_length = True
                return


def _block(model: nn.Module, config: PreprocessCfg, *, name: str, dim: int) -> EncoderBlock:
    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    # the same weights under another activation embed differently
    digest = weights_digest(model.state_dict(), also=b"QuickGELU" if quick else b"")
    preprocess = json.dumps(describe_preprocessing(config), separators=(",", ":"))
    return EncoderBlock(name, digest, preprocess, dim)
