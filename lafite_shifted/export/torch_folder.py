"""`export torch`: the parts as torch.export programs, .pt2 files of JSON and raw tensors."""

import warnings
from pathlib import Path

import torch

from lafite_shifted.export.folder import describe, tokenizer_file, write_folder
from lafite_shifted.export.parts import parts_of
from lafite_shifted.io.files import atomic_file
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig

KIND = "torch-export"


def export_torch(
    model: TextToImage, out: Path, *, sampling: SamplerConfig | None = None
) -> list[str]:
    """Write a model on the CPU, in float32, as a folder; the names of the programs. InputError for
    what cannot be exported.
    """
    tokenizer = tokenizer_file(model)
    parts = parts_of(model, sampling)
    manifest = describe(model, parts, kind=KIND)
    manifest["torch"] = torch.__version__
    programs = {f"{name}.pt2": part.program() for name, part in parts.items()}
    for name in parts:
        manifest["parts"][name]["file"] = f"{name}.pt2"

    def save(path: Path) -> None:
        program = programs[path.name]
        program._example_inputs = None  # which would be pickled
        with atomic_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of views, which are stored whole
            torch.export.save(program, file)  # type: ignore[arg-type]

    files = dict.fromkeys(programs, save)
    write_folder(out, manifest, files, {"tokenizer.json": tokenizer})
    return list(programs)
