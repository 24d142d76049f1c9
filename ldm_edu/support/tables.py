"""Named tuples as CSV tables."""
from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar, get_type_hints

from .files import replacing

Row = TypeVar("Row", bound=tuple)


def write_table(path: str | Path, rows: Sequence[tuple]) -> None:
    """Write named tuples as CSV under the names of their fields, floats with four decimals, atomically."""
    with replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows([f"{v:.4f}" if isinstance(v, float) else v for v in row] for row in rows)


def read_table(path: str | Path, kind: type[Row]) -> list[Row]:
    """Read what `write_table` wrote, as rows of the named tuple `kind`. ValueError if the columns are others."""
    types = get_type_hints(kind)
    with open(path, newline="", encoding="utf-8") as file:
        names, *lines = csv.reader(file)
    if names != list(types):
        raise ValueError(f"{path}: its columns are {', '.join(names)}, expected {', '.join(types)}")
    return [kind(*(read(value) for read, value in zip(types.values(), line, strict=True))) for line in lines]


def add_missing(path: Path, kind: type[Row], names: Iterable[str], seeds: Iterable[int],
                measure: Callable[[str, int], list[Row]]) -> Iterator[Row]:
    """Add the rows that `measure` finds for a name and a seed, unless some begin with both already; yield new ones."""
    for seed, name in product(seeds, names):
        if any(row[:2] == (name, seed) for row in (read_table(path, kind) if path.exists() else [])):
            continue
        rows = measure(name, seed)
        write_table(path, (read_table(path, kind) if path.exists() else []) + rows)    # others may have added to it
        yield from rows
