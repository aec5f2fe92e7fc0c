"""What processes that were killed have left half-written beside a file or folder."""

import os
import re
import shutil
from pathlib import Path


def remove_abandoned(path: Path) -> None:
    """Remove the temporary copies of `path` that lie beside it (`atomic_file`, `atomic_directory`)
    and whose process is gone.
    """
    if not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([1-9][0-9]{{0,8}})\.tmp")
    for other in list(path.parent.iterdir()):
        found = pattern.fullmatch(other.name)
        if found is None or _is_running(int(found[1])):
            continue
        if other.is_dir() and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)
        else:
            other.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
