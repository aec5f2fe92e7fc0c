"""The command `lafite-shifted`: finds the verb, and turns what went wrong into one message and an
exit code.
"""

import errno
import importlib
import io
import os
import sys
from contextlib import suppress

import click

from lafite_shifted import __version__
from lafite_shifted.errors import DivergedError, InputError, InterruptedRunError
from torch_utils.memory import keep_freed_memory

# name -> module, imported when its verb is used or listed; it stays free of torch until it runs
VERBS = {
    "demo": "demo",
    "dataset": "dataset",
    "train-clip": "train_clip",
    "embed": "embed",
    "stats": "stats",
    "train-gan": "train_gan",
    "train-prior": "train_prior",
    "pack": "pack",
    "import": "import_",
    "export": "export",
    "push": "push",
    "generate": "generate",
    "variations": "variations",
    "interpolate": "interpolate",
    "edit": "edit",
    "project": "project",
    "style-mix": "style_mix",
    "guide": "guide",
    "walk": "walk",
    "serve": "serve",
    "evaluate": "evaluate",
    "ops": "ops",
    "bench": "bench",
    "doctor": "doctor",
}

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "your disk quota is used up. Free some space",
    errno.EIO: "the disk gives back other than was written, or nothing. Choose another disk",
    errno.EROFS: "the file system is read-only. Mount it for writing, or choose another --out",
    errno.EACCES: "permission denied. Choose another folder, or change its permissions",
    errno.EPERM: "permission denied. Choose another folder, or change its permissions",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path",
    errno.EEXIST: "it is a file, not a folder. Choose another path",
    errno.ENAMETOOLONG: "the name is too long for the file system. Choose a shorter one",
    errno.ELOOP: "links lead round in a circle. Choose another path, or mend them",
    errno.EMFILE: "too many open files. Raise the limit (`ulimit -n 4096`)",
    errno.ENFILE: "the machine has too many open files. Close some programs",
    errno.ENOENT: "it is gone, or a folder on the way to it is missing. Check the path",
    errno.ESTALE: "the network disk has lost it. Mount the disk again",
    errno.EISDIR: "it is a folder, not a file. Choose another path",
    errno.EFBIG: "a file is larger than allowed. Raise the limit (`ulimit -f`)",
}


# what takes less memory, by verb
_LESS_MEMORY = {
    "train-gan": "Give --set micro_batch=N (N images at a time, with the same result), --set "
    "activation_checkpointing=true (less memory, more time), a smaller --batch-size or "
    "--resolution, or a smaller --preset; --cache-gib bounds the decoded images. `--dry-run` "
    "estimates what a run needs",
    "train-prior": "Give a smaller --batch-size or --preset. `--dry-run` estimates what a run "
    "needs",
    "train-clip": "Give a smaller --batch-size",
    "embed": "Give a smaller --batch-size, or --max-megapixels for smaller images",
    "generate": "Give a smaller --batch-size, or --dtype bfloat16",
    "evaluate": "Give --dtype bfloat16, or fewer images or captions (--count, --limit)",
}
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")


class VerbGroup(click.Group):
    """Imports the module of a verb when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of VERBS."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb, imported now; None for an unknown one."""
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"lafite_shifted.cli.{VERBS[cmd_name]}").command


@click.group(
    cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="lafite-shifted")
def group() -> None:
    """Train a text-to-image model on a folder of images, without one caption.

    First steps: `lafite-shifted demo`, or `lafite-shifted train-gan PHOTOS --out RUN`.
    """


def main() -> None:
    """Entry point of the console script. Bugs keep their traceback."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names and sentences that a locale cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        group(standalone_mode=False)
    except click.exceptions.Abort:
        _leave("Interrupted.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (InputError, DivergedError, InterruptedRunError) as error:
        _leave(str(error), error.exit_code)
    except KeyboardInterrupt:
        _leave("Interrupted.", 130)
    except (MemoryError, RuntimeError) as error:
        # a GPU's is a RuntimeError of its own type, a CPU's has none
        if not isinstance(error, MemoryError) and not any(s in str(error) for s in _OUT_OF_MEMORY):
            raise
        _leave(_memory_message(error), 2)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _leave(_memory_message(error), 2)
        advice = _DISK_ERRORS.get(error.errno or 0)
        if advice is None:
            if not error.filename:
                raise
            advice = f"{error.strerror}. Choose another path"
        name = error.filename  # bytes, of some libraries
        name = os.fsdecode(name) if isinstance(name, bytes) else name
        where = f"{name}: " if name else ""
        _leave(f"{where}{advice} and run the same command again.", 2)


def _memory_message(error: BaseException) -> str:
    verb = next((word for word in sys.argv[1:] if word in VERBS), "")
    what = "The GPU's memory" if "CUDA" in str(error) or "CUBLAS" in str(error) else "The memory"
    less = _LESS_MEMORY.get(verb, "Ask for less at a time")
    said = str(error).strip().splitlines() or [type(error).__name__]
    return f"{what} does not suffice. {less}, or end what else takes memory. ({said[0][:200]})"


def _leave(message: str, code: int) -> None:
    with suppress(OSError):  # a terminal that is gone
        click.echo(f"lafite-shifted: {message}", err=True)
    sys.exit(code)
