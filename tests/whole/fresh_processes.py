"""Commands in fresh interpreters, which read locale and environment as a user's do; servers among
them.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

COMMAND = [sys.executable, "-m", "lafite_shifted.cli"]


def process(
    *arguments: str | Path, command: list[str] = COMMAND, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """A command in a process of its own, without the locale of this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k != "LANG"}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=kept | {"PYTHONPATH": root} | env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )


SEVERAL = """
import json, sys
from lafite_shifted.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:], code = words, 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    print("exit", code)
"""


def exit_codes(*commands: list[str | Path], **env: str) -> tuple[list[int], bytes]:
    """Of commands, one after the other in one process, and all that they said. Letters reach it as
    in words of a command line.
    """
    words = json.dumps([[str(word) for word in words] for words in commands], ensure_ascii=False)
    done = process(words, command=[sys.executable, "-c", SEVERAL], **env)
    assert done.returncode == 0, done.stdout
    return [int(code) for code in re.findall(rb"^exit (\d+)$", done.stdout, re.M)], done.stdout


def wait_until_healthy(url: str) -> None:
    """Until the server at `url` answers, five minutes at most: it may build the operators."""
    for _ in range(3000):
        try:
            urllib.request.urlopen(f"{url}/healthz").close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")
