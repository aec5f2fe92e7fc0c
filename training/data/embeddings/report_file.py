"""report.jsonl: every image that cannot be read, {"file_name", "reason"}, then captions that cannot
be used and files that are not ("what" says which of them; "count" where one row stands for a
folder). Another program's file of that name is never written over.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import check_own_rows, read_json_lines, write_json_lines
from training.data.files.image_files import NotUsed
from training.data.images import bad_image_rows

CAPTIONS, NOT_USED = (
    "captions",
    "not used",
)  # values of "what"; an image that cannot be read has none

Bad = tuple[str, str]  # (file name, or line of a file; reason)

_FIELDS = {"file_name": str, "reason": str}


@dataclass(frozen=True)
class LeftOut:
    """What of a set was not used, and why."""

    bad: Sequence[Bad] = ()  # images that cannot be read
    captions: Sequence[Bad] = ()
    not_used: Sequence[NotUsed] = ()  # files that are no images to train on

    def joined(self, other: "LeftOut") -> "LeftOut":
        """Both together."""
        return LeftOut(
            [*self.bad, *other.bad],
            [*self.captions, *other.captions],
            [*self.not_used, *other.not_used],
        )

    def below(self, folder: str) -> "LeftOut":
        """The same, with names that begin with `folder`."""
        return LeftOut(
            [(f"{folder}/{name}", reason) for name, reason in self.bad],
            [(f"{folder}/{name}", reason) for name, reason in self.captions],
            [replace(one, file_name=f"{folder}/{one.file_name}") for one in self.not_used],
        )

    def summary(self) -> list[str]:
        """A line for each reason why files are not used: how many, and the first of them."""
        counts, first = Counter[str](), dict[str, str]()
        for one in self.not_used:
            counts[one.reason] += one.count
            first.setdefault(one.reason, one.file_name)
        return [f"{count} {why}, first {first[why]}" for why, count in counts.most_common()]


def check_own_report(path: Path) -> None:
    """InputError where `path` is another program's."""
    _rows(path)


def write_report(path: Path, left_out: LeftOut) -> None:
    """Write the whole report; InputError where `path` is another program's."""
    check_own_report(path)
    rows: list[dict[str, Any]] = [*bad_image_rows(left_out.bad)]
    rows += [row | {"what": CAPTIONS} for row in bad_image_rows(left_out.captions)]
    for one in left_out.not_used:
        row = {"file_name": one.file_name, "reason": one.reason, "what": NOT_USED}
        rows.append(row | ({"count": one.count} if one.count > 1 else {}))
    write_json_lines(path, rows)


def read_report(path: Path) -> LeftOut:
    """What `write_report` wrote; nothing where there is no such file."""
    rows = _rows(path)
    pairs = [(row.get("what"), row["file_name"], row["reason"]) for row in rows]
    return LeftOut(
        [(name, reason) for what, name, reason in pairs if what is None],
        [(name, reason) for what, name, reason in pairs if what == CAPTIONS],
        [
            NotUsed(row["file_name"], row["reason"], row.get("count", 1))
            for row in rows
            if row.get("what") == NOT_USED
        ],
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows: list[Any] = [None]
    with suppress(InputError):
        rows = read_json_lines(path)
    return check_own_rows(rows, _FIELDS, path)
