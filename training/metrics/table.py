"""Tables of metrics in Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """Metrics that stand in one column, with a slash between."""

    title: str
    keys: tuple[str, ...]
    digits: int = 4
    scale: float = 1.0
    space: str = ""  # the feature space that it is of, where a report may lack it

    def cell(self, row: Mapping[str, float]) -> str:
        """Empty where the row lacks one of the metrics."""
        if any(key not in row for key in self.keys):
            return ""
        return " / ".join(f"{self.scale * row[key]:.{self.digits}f}" for key in self.keys)


def markdown_table(
    first: str, columns: Sequence[Column], rows: Mapping[str, Mapping[str, float]]
) -> str:
    """`rows` by name, under the column `first`; columns that are empty in all rows are left out."""
    cells = [[column.cell(row) for row in rows.values()] for column in columns]
    shown = [number for number, found in enumerate(cells) if any(found)]
    titles = [first, *(columns[number].title for number in shown)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for place, name in enumerate(rows):
        lines.append(f"| {' | '.join([name, *(cells[n][place] for n in shown)])} |")
    return "\n".join(lines) + "\n"
