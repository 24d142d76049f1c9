"""`python -m ldm_edu.recipes NAME` trains one of the shipped networks."""
from __future__ import annotations

import argparse
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..support.arithmetic import PRECISIONS
from .runner import APART, PROFILES, RECIPES, run


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.recipes", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or prolong it with --steps")
    parser.add_argument("--warm", action="store_true", help="a new run, from the weights in --out")
    parser.add_argument("--out", type=Path, help="checkpoint folder (default: where the shipped one lies)")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--precision", choices=PRECISIONS,
                        help="instead of the profile's; bfloat16 is fastest on a CPU that has AMX")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    args = parser.parse_args(arguments)
    profile = PROFILES[args.name][args.profile]
    given = {name: value for name in ("steps", "precision") if (value := getattr(args, name)) is not None}
    profile = replace(profile, train=replace(profile.train, **given))
    if args.threads:
        torch.set_num_threads(args.threads)
    if "RANK" in os.environ:    # set by torchrun; the first process may compute latents for long while the others wait
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=2))
    out = args.out or Path("data") / (args.name if args.name in APART else "tiny-worlds")
    run(args.name, profile, out, args.resume, args.warm)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
