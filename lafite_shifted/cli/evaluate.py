"""`evaluate`: the group of verbs that compute metrics of a model on held-out data."""

import click

from lafite_shifted.cli import (
    evaluate_curves,
    evaluate_gan,
    evaluate_model,
    evaluate_prior,
    evaluate_study,
)


@click.group("evaluate", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Metrics on held-out data, beside baselines and real images."""


for module in (evaluate_prior, evaluate_study, evaluate_gan, evaluate_model, evaluate_curves):
    command.add_command(module.command)
