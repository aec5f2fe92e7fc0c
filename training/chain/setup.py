"""What the evaluation of a whole model needs before it begins, and what it refuses."""

from lafite_shifted.errors import InputError
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


def eval_set_of(data: GanData, *, count: int | None) -> EvalSet:
    """At most `count` of the held-out images that have captions, or of all where too few are held
    out; InputError below FEWEST.
    """
    eval_set = EvalSet.of(data, count=count, captioned=True)
    if len(eval_set.embeddings) < min(FEWEST, count or FEWEST) or len(eval_set.embeddings) < 2:
        raise InputError(
            f"{len(eval_set.embeddings)} images with captions are too few to evaluate on: give "
            f"{FEWEST} at least. Captions are a metadata.jsonl, or a .txt beside each image."
        )
    return eval_set
