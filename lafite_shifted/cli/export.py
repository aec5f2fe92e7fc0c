"""`export`: a model for programs that have no PyTorch, or not our code."""

import click

from lafite_shifted.cli import export_onnx, export_torch, export_web


@click.group("export", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """A model as ONNX graphs, torch.export programs, or a site that runs in the browser."""


for module in (export_onnx, export_torch, export_web):
    command.add_command(module.command)
