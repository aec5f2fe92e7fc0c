"""`doctor`: what this machine offers, one line each, and what to do where something lacks."""

import sys

import click

from lafite_shifted.cli import options


@click.command("doctor")
@options.json_option
def command(as_json: bool) -> None:
    """Check Python, torch, CUDA, compiler, open_clip, memory and disk. Exit 0 unless nothing can
    run.
    """
    import json
    from dataclasses import asdict

    from training.tools.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.state:7} {finding.name:14} {finding.detail}")
            if finding.advice:
                click.echo(f"{'':22} -> {finding.advice}")
    sys.exit(1 if any(finding.state == "broken" for finding in findings) else 0)
