"""Tables of figures on disk: read back as they were, refused if they are others, never half written."""
from typing import NamedTuple

import pytest

from ldm_edu.support.tables import read_table, write_table


class Line(NamedTuple):
    name: str
    steps: int
    share: float


def test_a_table_reads_as_it_was_written(tmp_path):
    rows = [Line("ddim", 2, 0.25), Line("a, \"b\"", -1, 1 / 3)]
    write_table(tmp_path / "new" / "table.csv", rows)
    assert (tmp_path / "new" / "table.csv").read_text().startswith("name,steps,share\nddim,2,0.2500\n")
    found = read_table(tmp_path / "new" / "table.csv", Line)
    assert found == [rows[0], Line("a, \"b\"", -1, 0.3333)] and isinstance(found[0].steps, int)


def test_a_failed_write_changes_nothing(tmp_path):
    path, rows = tmp_path / "table.csv", [Line("ddim", 2, 0.25)]
    write_table(path, rows)
    for bad, error in (([*rows, None], TypeError), ([], IndexError)):
        with pytest.raises(error):
            write_table(path, bad)
        assert read_table(path, Line) == rows and list(tmp_path.iterdir()) == [path]


def test_a_table_of_other_figures_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv", Line)
    (tmp_path / "other.csv").write_text("name,steps\nddim,2\n")
    with pytest.raises(ValueError, match="columns are name, steps, expected name, steps, share"):
        read_table(tmp_path / "other.csv", Line)
    (tmp_path / "short.csv").write_text("name,steps,share\nddim,2\n")
    with pytest.raises(ValueError, match="shorter"):
        read_table(tmp_path / "short.csv", Line)
