"""`ops`: the native operators of this machine: what is there, build, clean."""

import click

from lafite_shifted.cli import options


@click.group("ops", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Native operators: what is built, build them, remove them."""


@command.command("status")
@options.device_option
@options.json_option
def status(device: str, as_json: bool) -> None:
    """Show the compiler, the library and its log; builds nothing."""
    _show(_describe(device), as_json)


@command.command("build")
@options.device_option
@options.json_option
def build(device: str, as_json: bool) -> None:
    """Build the library for a device, unless the cache holds it."""
    from lafite_shifted.errors import InputError
    from ops_cuda.build import BuildError
    from ops_cuda.library import Library
    from ops_cuda.targets import CacheMissingError, CompilerMissingError

    try:
        Library.of(_target(device))
    except (CompilerMissingError, CacheMissingError) as error:
        raise InputError(f"{error}. Or go on with --ops reference.") from error
    except (BuildError, OSError) as error:
        raise InputError(f"{error}. Mend the compiler, or go on with --ops reference.") from error
    _show(_describe(device), as_json)


@command.command("clean")
@options.json_option
def clean(as_json: bool) -> None:
    """Remove every built library from the cache."""
    from lafite_shifted.errors import InputError
    from ops_cuda.build import clean as clean_cache
    from ops_cuda.targets import CacheMissingError, cache_folder

    try:
        cache_folder()
    except CacheMissingError as error:
        raise InputError(f"Nothing to remove: {error}.") from error
    _show({"removed": clean_cache(), "cache": str(cache_folder())}, as_json)


def _target(device: str):
    import torch

    from lafite_shifted.device import resolve_device
    from ops_cuda.targets import cpu_target, cuda_target

    chosen = resolve_device(device)
    if chosen.type == "cuda":
        return cuda_target(torch.cuda.get_device_capability(chosen))
    return cpu_target()


def _describe(device: str) -> dict[str, object]:
    from ops_cuda.build import LIBRARY
    from ops_cuda.targets import CacheMissingError, CompilerMissingError, cache_folder

    try:
        cache = str(cache_folder())
    except CacheMissingError as error:
        return {"built": False, "reason": str(error), "cache": None}
    try:
        target = _target(device)
        built, failed = (target.folder / LIBRARY).is_file(), target.log.name.endswith("failed.log")
    except CompilerMissingError as error:
        return {"built": False, "reason": str(error), "cache": cache}
    return {
        "target": target.name,
        "compiler": target.compiler,
        "flags": " ".join(target.compile_flags),
        "built": built,
        "failed": failed and not built,
        "library": str(target.folder / LIBRARY),
        "log": str(target.log),
        "cache": cache,
    }


def _show(values: dict[str, object], as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        click.echo(f"{name:10} {value}")
