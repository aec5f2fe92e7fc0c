"""Flags of the verbs that sample the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from lafite_shifted.cli.argument_types import Number
from lafite_shifted.cli.options import gathered, positive_int
from lafite_shifted.errors import InputError

if TYPE_CHECKING:
    from lafite_shifted.generation import Generation
    from lafite_shifted.prior.samplers import Sampler


@dataclass(frozen=True)
class PriorFlags:
    """The flags that say how the prior samples."""

    steps: int | None
    sampler: "Sampler | None"
    eta: float
    guidance: float | None
    dynamic_threshold: bool
    best_of: int
    negative: str | None
    no_prior: bool

    def generation(self, *, truncation: float = 1.0) -> "Generation":
        """What they mean; InputError for what cannot be meant."""
        from lafite_shifted.generation import NEGATIVE_GUIDANCE, Generation
        from lafite_shifted.prior.samplers import SamplerConfig

        if self.no_prior:
            self.refuse_sampling("--no-prior")
        usual = 1.0 if self.negative is None else NEGATIVE_GUIDANCE
        sampling = SamplerConfig(
            self.steps,
            self.sampler,
            self.eta,
            usual if self.guidance is None else self.guidance,
            self.dynamic_threshold,
            self.best_of,
        )
        return Generation(not self.no_prior, sampling, truncation, self.negative)

    def refuse_sampling(self, without: str) -> None:
        """InputError where a flag speaks of a prior that does not run, because of `without`."""
        given = {
            "--steps": self.steps is not None,
            "--sampler": self.sampler is not None,
            "--eta": self.eta != 0,
            "--guidance": self.guidance is not None,
            "--dynamic-threshold": self.dynamic_threshold,
            "--best-of": self.best_of != 1,
        }
        names = ", ".join(name for name, is_given in given.items() if is_given)
        if names:
            raise InputError(
                f"{names}: of the prior, which does not run with {without}. Leave one out."
            )


def prior_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--steps, --sampler, --eta, --guidance, --dynamic-threshold, --best-of, --negative,
    --no-prior, as `prior`: a PriorFlags.
    """
    options = (
        positive_int(
            "--steps",
            default=None,
            help="Sampling steps of the prior.  [default: 4, or its step budget]",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["ancestral", "ddim", "dpm++"]),
            help="Of the prior; ddim and dpm++ add no noise on the way. By default dpm++, "
            "ancestral for a prior of the energy objective.",
        ),
        click.option(
            "--eta", type=Number(0, 1), default=0.0, help="Noise of ddim; 1 is ancestral."
        ),
        click.option(
            "--guidance",
            type=Number(-100, 100),
            default=None,
            help="Of the prior; 1 is none.  [default: 1, or 2 with --negative]",
        ),
        click.option(
            "--dynamic-threshold",
            is_flag=True,
            help="Dynamic thresholding, for guidance above 1.",
        ),
        positive_int(
            "--best-of",
            default=1,
            help="Samples of the prior; the closest to the text by CLIP is used.",
        ),
        click.option(
            "--negative", help="What images must not show; acts through guidance in the prior."
        ),
        click.option("--no-prior", is_flag=True, help="Condition on the text embedding itself."),
    )
    return gathered(options, PriorFlags, "prior", command)
