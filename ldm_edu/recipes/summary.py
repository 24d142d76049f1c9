"""The tables of a model card: how each stage was trained, what it made, what the whole reaches."""
from __future__ import annotations

from pathlib import Path

from ..metrics.evaluation import table
from ..support.files import read_json


def write_summary(root: Path, stages: list[str]) -> None:
    """Write `root`/training/summary.md from the notes of all stages, and measure the model they made."""
    made = ["| stage | scenes | steps × batch | time | machine | last losses |", "|---|---|---|---|---|---|"]
    files = ["| file | sha256 | size |", "|---|---|---|"]
    for name in stages:
        run = read_json(root / "training" / name / "run.json")
        settings, losses = run["settings"], ", ".join(f"{part} {value:.3g}" for part, value in run["losses"].items())
        made.append(f"| {name} | {settings['scenes']:,} | {settings['steps']:,} × {settings['batch']} | "
                    f"{run['seconds'] / 60:.0f} min | {run['machine']} | {losses} |")
        files += [f"| `{path}` | `{digest}` | {(root / path).stat().st_size / 1e6:.1f} MB |"
                  for path, digest in run["files"].items()]
    reached = table(root / "tiny-worlds", root, seeds=(0, 1, 2))
    parts = ["\n".join(lines) for lines in (made, reached, dict.fromkeys(files))]
    (root / "training/summary.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
