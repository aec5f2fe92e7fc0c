"""What the evaluation of a whole model needs before it begins, and what it refuses."""

from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from training.gan.data import GanData
from training.gan.evaluate import FEWEST, EvalSet
from training.metrics.judges import Judges


def check_judges(judges: Judges) -> None:
    """InputError without any judge."""
    if not judges.spaces:
        raise InputError(
            "A whole model is evaluated by judges, and there is none. Install the judge of images: "
            "pip install 'lafite-shifted[judge]', or give --judge-clip."
        )


def split_notes(eval_set: EvalSet, *models: TextToImage | None) -> list[str]:
    """What to say where the images are not held out from all parts."""
    found = []
    if eval_set.where == "training":
        found.append(
            "note: too few images are held out, or the generator was trained on all: these are "
            "images that it was trained on."
        )
    priors = [model.prior for model in models if model is not None and model.prior is not None]
    if any(prior.training.get("hold_out") is False for prior in priors):
        found.append("note: a prior was trained on all captions, those of held-out images too.")
    return found


def eval_set_of(data: GanData, *, count: int | None) -> EvalSet:
    """At most `count` of the held-out images that have captions, or of those trained on where too
    few are held out; InputError where they are too few as well.
    """
    captioned = [
        sum(bool(data.texts.get(name)) for name in images.names)
        for images in (data.held_out_images, data.images)
    ]
    if max(captioned) < FEWEST:
        raise InputError(
            f"{sum(captioned)} images with captions are too few to evaluate on: at least {FEWEST} "
            "are needed. Captions are a metadata.jsonl, or a .txt beside each image."
        )
    if count == 1:
        raise InputError("--count 1: a set of images is needed. Give 2 at least, better hundreds.")
    return EvalSet.of(data, count=count, captioned=True)
