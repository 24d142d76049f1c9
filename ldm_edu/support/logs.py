"""Progress bar, CSV log and loss figure of a training run."""
from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tqdm.auto import tqdm

from .files import replacing


def logged(steps: Iterator, log: Path, name: str, total: int,
           left_after: Callable[[float, float], str] = lambda left, pace: "") -> Iterator:
    """Pass on what `train` yields, with a progress bar and one row per step in the CSV file `log`.

    On a GPU ten rows are written at a time, because reading a loss makes the GPU wait. After a crash, rows of steps
    that are repeated are replaced. left_after: turns the seconds left, and those of a step, into the text before the
    losses in the bar.
    """
    bar, waiting = None, []
    with ExitStack() as stack:
        for progress in steps:
            if bar is None:
                kept, names = _read_log(log, before=progress.step), ["step", "lr", *progress.parts]
                with replacing(log) as part, open(part, "w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([names, *([row[name] for name in names] for row in kept)])
                file = stack.enter_context(open(log, "a", newline="", encoding="utf-8", buffering=1))    # by lines
                rows = csv.DictWriter(file, names)
                stack.callback(_write_rows, rows, waiting)    # those left, also after Ctrl-C
                bar = stack.enter_context(tqdm(total=total, initial=progress.step - 1, desc=name, unit="step"))
            waiting.append(progress)
            on_cpu = all(value.device.type == "cpu" for value in progress.parts.values())
            if on_cpu or progress.step % 10 == 0 or progress.step == total:
                losses = ", ".join(f"{part} {value:.3g}" for part, value in progress.losses.items())
                if rate := bar.format_dict["rate"]:    # not yet in the first steps
                    losses = left_after((total - progress.step) / rate, 1 / rate) + losses
                bar.set_postfix_str(losses, refresh=False)
                _write_rows(rows, waiting)
            bar.update()
            yield progress


def _write_rows(rows: csv.DictWriter, waiting: list) -> None:
    while waiting:
        progress = waiting.pop(0)
        losses = {part: f"{value:.6g}" for part, value in progress.losses.items()}
        rows.writerow({"step": progress.step, "lr": f"{progress.lr:.3g}", **losses})


def _read_log(log: Path, before: float = math.inf) -> list[dict[str, str]]:
    if not log.exists():
        return []
    with open(log, newline="", encoding="utf-8") as file:
        whole = (row for row in csv.DictReader(file) if None not in row.values())    # a killed run may cut the last
        return [row for row in whole if int(row["step"]) < before]


def last_losses(log: Path) -> dict[str, float]:
    """Average each part of the loss over the last hundredth of a run."""
    rows = _read_log(log)
    rows = rows[-max(1, len(rows) // 100):]
    return {name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0] if name not in ("step", "lr")}


def draw_losses(log: Path) -> None:
    """Draw loss.png beside a CSV log: each part of the loss, averaged over 1 % of the run."""
    from matplotlib.figure import Figure  # half a second that training need not wait for

    rows = _read_log(log)
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    width = max(1, len(rows) // 100)
    for name in [name for name in rows[0] if name not in ("step", "lr")]:
        values = [float(row[name]) for row in rows]
        means = [sum(values[i:i + width]) / width for i in range(0, len(values) - width + 1, width)]
        axes.plot([width * (i + 1) for i in range(len(means))], means, label=name)
    axes.set(title=f"{log.parent.name}: training loss", xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(log.with_name("loss.png"), dpi=80)
