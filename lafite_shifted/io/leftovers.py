"""What `atomic_file` and `atomic_directory` of killed processes have left half-written."""

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path


def remove_abandoned(path: Path) -> None:
    """Remove the temporary copies of `path` that lie beside it and whose process is gone."""
    _remove(path.parent, re.escape(path.name), still_s=0.0)


def remove_abandoned_in(folder: Path) -> None:
    """The same of whatever was to be in `folder`, which other processes may be writing to."""
    _remove(folder, ".+", still_s=2.0)  # they may run on another machine


def _remove(folder: Path, name: str, *, still_s: float) -> None:
    """What has not been written to for `still_s` seconds."""
    if not folder.is_dir():
        return
    pattern = re.compile(rf"\.{name}\.([1-9][0-9]{{0,8}})\.tmp", re.DOTALL)
    for other in list(folder.iterdir()):
        found = pattern.fullmatch(other.name)
        if found is None or _is_running(int(found[1])):
            continue
        with suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - other.lstat().st_mtime < still_s:
                continue
            if other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
