"""CLIP (arXiv:2103.00020) through open_clip: embeddings of images and texts, and the identity of
what made them.

Shape letters: N batch, C H W image, D embedding, L tokens, F width of the text tower.
"""

import json
import warnings
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import safetensors
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from open_clip.utils import to_2tuple
from torch import Tensor, nn

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId, weights_digest
from lafite_shifted.encoders.preprocessing import describe_preprocessing, preprocess
from lafite_shifted.encoders.text_features import TextFeatures, clean_text
from lafite_shifted.errors import InputError
from lafite_shifted.io.shell import absolute, expanded

STARTER = "starter"


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
        model_name, pretrained = _resolve(name)
        for file in _weights_files(model_name, pretrained):
            _refuse_torchscript(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model = open_clip.create_model(
                    model_name,
                    pretrained=pretrained,
                    require_pretrained=True,
                    force_quick_gelu=_needs_quick_gelu(model_name, pretrained),
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

    # --- images

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W], uint8 or float in [-1, 1], of any size -> the model's input [N, 3,
        S, S].

        Differentiable, on the images' device; equals open_clip's own transform to 2/255 of a
        pixel.
        """
        return preprocess(images, self.preprocess_config)

    def embed_images(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Unit embeddings [N, D] float32 of a batch [N, 3, H, W], or of images [3, H, W] of
        various sizes.

        Gradients flow to float images; wrap in torch.no_grad() where none are wanted.
        """
        batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        prepared = torch.cat([self.preprocess(batch.to(self.device)) for batch in batches])
        return self.embed_prepared(prepared)

    def embed_prepared(self, prepared: Tensor) -> Tensor:
        """Unit embeddings [N, D] float32 of what `preprocess` returned."""
        return F.normalize(self.model.encode_image(prepared.to(self.device)).float(), dim=1)

    # --- texts

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> TextFeatures:
        """Features of N texts. A text beyond the context length is cut, with one warning per
        encoder.
        """
        if not texts:
            raise InputError("The list of texts is empty. Give a sentence, such as 'a red apple'.")
        texts = [clean_text(text) for text in texts]
        ids = self.tokenizer(list(texts), context_length=self.context_length)  # [N, L]
        lengths = _lengths(self.model, ids)
        self._warn_if_cut(texts, lengths)
        ids = ids.to(self.device)
        embedding, states = _text_states(self.model, ids)
        inside = torch.arange(states.shape[1]) < lengths[:, None]  # [N, L]
        inside = inside.to(states.device)
        return TextFeatures(
            F.normalize(embedding.float(), dim=1), states.float() * inside[..., None], lengths
        )

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


def starter_folder() -> Path:
    """Where the shipped CLIP lies."""
    return Path(str(resources.files("lafite_shifted") / "assets" / "starter-clip"))


def recorded_name(name: str) -> str:
    """A --clip value that means the same in another folder: paths become absolute, ~ the home
    folder.
    """
    if name == STARTER or name.startswith("hf-hub:"):
        return name
    folder = name.removeprefix("local-dir:")
    if (Path(expanded(folder)) / "open_clip_config.json").is_file():
        return name.removesuffix(folder) + absolute(folder)
    model, slash, pretrained = name.partition("/")
    if slash and model in open_clip.list_models() and Path(expanded(pretrained)).is_file():
        return f"{model}/{absolute(pretrained)}"
    return name


def _resolve(name: str) -> tuple[str, str | None]:
    """open_clip's (model name, pretrained) for a --clip value."""
    if name == STARTER:
        return f"local-dir:{starter_folder()}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    path = Path(name)
    if (path / "open_clip_config.json").is_file():
        return f"local-dir:{path}", None
    model, slash, pretrained = name.partition("/")
    if not slash or not pretrained or model not in open_clip.list_models():
        raise InputError(
            f"--clip {name}: not known. Give `starter`, MODEL/PRETRAINED such as "
            "ViT-B-32/laion2b_s34b_b79k (or "
            "ViT-B-32/path/to/weights.safetensors), hf-hub:ORG/REPO, or a folder with "
            "open_clip_config.json."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise InputError(
            f"--clip {name}: {pretrained!r} is neither a file nor a pretrained tag of {model}. "
            f"Its tags are: {', '.join(tags) or 'none'}."
        )
    return model, pretrained


def _needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Whether the weights of this tag were trained with QuickGELU: the wrong one silently hurts."""
    return bool(pretrained and get_pretrained_cfg(model, pretrained).get("quick_gelu", False))


def _weights_files(model_name: str, pretrained: str | None) -> list[Path]:
    """Local files that open_clip may unpickle."""
    if pretrained is not None:
        return [Path(pretrained)]
    folder = Path(model_name.removeprefix("local-dir:"))
    return [*folder.glob("*.bin"), *folder.glob("*.pth")]


def _refuse_torchscript(path: Path) -> None:
    """TorchScript archives carry code; open_clip would run it."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.endswith("constants.pkl") for entry in archive.namelist()):
                raise InputError(
                    f"{path} is a TorchScript archive, which can run code. Use safetensors "
                    "weights instead."
                )


def _block(model: nn.Module, config: PreprocessCfg, *, name: str, dim: int) -> EncoderBlock:
    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    # the same weights under another activation embed differently
    digest = weights_digest(model.state_dict(), also=b"QuickGELU" if quick else b"")
    preprocess = json.dumps(describe_preprocessing(config), separators=(",", ":"))
    return EncoderBlock(name, digest, preprocess, dim)


def _lengths(model: nn.Module, ids: Tensor) -> Tensor:
    """Tokens up to and including end-of-text. The byte-pair vocabulary has its largest id there;
    others pad.
    """
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    if pool == "argmax":
        return ids.argmax(dim=1) + 1
    pad = getattr(getattr(text, "config", None), "pad_token_id", None) or getattr(text, "pad_id", 0)
    return (ids != pad).sum(dim=1)


def _text_states(model: CLIP | CustomTextCLIP, ids: Tensor) -> tuple[Any, Any]:
    """Projected text embedding [N, D] and token states [N, L, F] after the final norm."""
    text = getattr(model, "text", None)
    if text is not None and not hasattr(text, "forward_intermediates"):  # a Hugging Face tower
        text.output_tokens = True
        return text(ids)
    arguments = {"text_indices": 1, "normalize_intermediates": True, "text_output_fmt": "NLC"}
    output = model.forward_intermediates(text=ids, normalize=False, **arguments)
    return output["text_features"], output["text_intermediates"][-1]
