"""Files on disk: read back as they were, refused if they are others, never half written, by a full disk neither."""
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from ldm_edu.support.commands import CommandLine, run_command
from ldm_edu.support.files import locked, read_tensors, write_tensors
from ldm_edu.support.logs import logged
from ldm_edu.support.tables import add_missing, read_table, write_table


class Line(NamedTuple):
    name: str
    steps: int
    share: float


def test_a_table_reads_as_it_was_written(tmp_path):
    rows = [Line("ddim", 2, 0.25), Line("a, \"b\"", -1, 1 / 3)]
    write_table(tmp_path / "new" / "table.csv", rows)
    assert (tmp_path / "new" / "table.csv").read_bytes().startswith(b"name,steps,share\nddim,2,0.2500\n")
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


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_a_full_disk_is_a_sentence_and_leaves_the_last_good_file(tmp_path, capsys):
    """A limit on the size of files stands for it: the same error, from the same call of the system."""
    import resource

    path = tmp_path / "state.safetensors"
    write_tensors(path, {"x": torch.ones(3)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            run_command(CommandLine("x", ""), [], lambda _: write_tensors(path, {"x": torch.ones(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stop.value.code == 2 and "state.safetensors could not be written: " in capsys.readouterr().err
    assert torch.equal(read_tensors(path)["x"], torch.ones(3)) and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_loss_that_is_not_finite_is_a_sentence(capsys):
    def work(_):
        raise FloatingPointError("loss is nan at step 3; last good checkpoint: none")

    with pytest.raises(SystemExit):
        run_command(CommandLine("x", ""), [], work)
    assert capsys.readouterr().err == "loss is nan at step 3; last good checkpoint: none\n"


def rows_of(steps, log, device="cpu"):
    """The generator, and its log after each step: what a killed run leaves."""
    part = SimpleNamespace(device=torch.device(device))
    run = (SimpleNamespace(step=s, parts={"mse": part}, losses={"mse": s / 8}, lr=1e-3) for s in steps)
    for progress in logged(run, log, "x", 29):
        yield progress.step, log.read_text().splitlines()


def test_a_killed_run_has_logged_every_step_and_a_resumed_one_replaces_what_it_repeats(tmp_path):
    log = tmp_path / "log.csv"
    run = rows_of(range(1, 6), log)
    for step, rows in run:
        assert len(rows) == 1 + step and rows[-1] == f"{step},0.001,{step / 8:g}"
    resumed = rows_of(range(4, 7), log)
    assert next(resumed) == (4, ["step,lr,mse", *(f"{s},0.001,{s / 8:g}" for s in range(1, 5))])
    assert len([*resumed][-1][1]) == 7


def test_losses_on_a_gpu_are_read_ten_at_a_time_and_all_of_them_in_the_end(tmp_path):
    """Also those that are left when a run is stopped."""
    log = tmp_path / "log.csv"
    assert [len(rows) for _, rows in rows_of(range(1, 30), log, "cuda")] == [*[1] * 9, *[11] * 10, *[21] * 9, 30]
    for step, _ in (run := rows_of(range(30, 36), log, "cuda")):
        if step == 34:
            run.close()
    assert [row.split(",")[0] for row in log.read_text().split()] == ["step", *map(str, range(1, 35))]


def test_a_folder_is_let_go_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "run"):
        assert (tmp_path / "run/lock").exists()
        raise ValueError("inside")
    assert not (tmp_path / "run/lock").exists()


def test_what_a_table_lacks_is_measured_once_and_nothing_of_it_is_lost(tmp_path):
    """By name and seed; what another process writes meanwhile stays, and a killed study keeps what is finished."""
    path, asked = tmp_path / "table.csv", []

    def measure(name, seed):
        asked.append((name, seed))
        if (name, seed) == ("b", 0):
            write_table(path, [*read_table(path, Line), Line("other", 7, 0.5)])
        if (name, seed) == ("b", 1):
            raise KeyboardInterrupt
        return [Line(name, seed, 1.0)]

    with pytest.raises(KeyboardInterrupt):
        list(add_missing(path, Line, ["a", "b"], [0, 1], measure))
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    kept = [("a", 0), ("other", 7), ("b", 0), ("a", 1)]
    assert [row[:2] for row in read_table(path, Line)] == kept
    asked.clear()
    new = list(add_missing(path, Line, ["a", "other", "b"], [0], measure))
    assert asked == [("other", 0)] and new == [Line("other", 0, 1.0)]
