"""`python -m ldm_edu.doctor FOLDER`"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..pipeline import LatentDiffusion
from .examine import examine
from .findings import REMEDIES, RUN_CHECKS, report
from .training_run import examine_run, examine_training


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.doctor", description=__doc__)
    parser.add_argument("folder", type=Path, help="such as data/tiny-worlds or data/training/tiny-worlds-ldm")
    folder = parser.parse_args(arguments).folder.resolve()
    checkpoint, _, recipe = folder.name.rpartition("-")
    try:
        if (folder / "state.safetensors").is_file():
            ldm = recipe == "ldm"
            found = examine_run(folder, folder.parent.parent / checkpoint) if ldm else examine_training(folder)
            checked = [*REMEDIES] if ldm else RUN_CHECKS
        elif (folder / "model_index.json").is_file():
            found = examine(LatentDiffusion.from_pretrained(folder))
            checked = [check for check in REMEDIES if check not in ("log", "EMA", "EMA lag")]
        else:
            raise FileNotFoundError(f"folder: {folder} is no checkpoint (with model_index.json) and no training run "
                                    "(with state.safetensors)")
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report(found) if found else f"Nothing found. Checked: {', '.join(checked)}.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
