"""Say what is wrong with a checkpoint or a training run, and what to do.

Exit code: 0 if nothing is found, 1 if something is, 2 if the folder is neither.
"""
from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..support.commands import CommandLine, run_command
from .findings import REMEDIES, RUN_CHECKS, report


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = CommandLine("ldm_edu.doctor", __doc__)
    parser.add_argument("folder", type=Path, help="such as data/tiny-worlds or out/train/training/ldm")
    return run_command(parser, arguments, diagnose)


def diagnose(args: Namespace) -> int:
    """Print what is found in the folder; return whether it is more than warnings."""
    from ..pipeline import LatentDiffusion
    from .examine import examine
    from .training_run import examine_run

    folder = args.folder.resolve()
    if (folder / "state.safetensors").is_file():
        checkpoint = folder.parent.parent / "tiny-worlds"    # what the recipe ldm makes, in the end
        ldm = folder.name == "ldm" and (checkpoint / "model_index.json").is_file()
        found = examine_run(folder, checkpoint if ldm else None)
        checked = [*REMEDIES] if ldm else RUN_CHECKS
    elif (folder / "model_index.json").is_file():
        found = examine(LatentDiffusion.from_pretrained(folder))
        checked = [check for check in REMEDIES if check not in ("log", "EMA", "EMA lag")]
    else:
        raise FileNotFoundError(f"folder: {folder} is no checkpoint (with model_index.json) and no training run "
                                "(with state.safetensors)")
    print(report(found) if found else f"Nothing found. Checked: {', '.join(checked)}.")
    return int(any(finding.severity != "warning" for finding in found))


if __name__ == "__main__":
    sys.exit(main())
