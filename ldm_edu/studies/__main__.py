"""Repeat one of the measurements that the chapters show: `python -m ldm_edu.studies NAME [options]`."""
from __future__ import annotations

import argparse
import sys
from importlib import import_module

from ..support.commands import command_line, parse

STUDIES = {
    "autoencoder_losses": "one small autoencoder trained with four losses (chapter 03)",
    "bench": "time and memory of sampling, beside diffusers",
    "gan_versus_diffusion": "both at the same training compute, five seeds each (chapter 10)",
    "retrieval": "what CLIP can tell apart; with --study, how many pairs that takes (chapter 04)",
    "sampler_quality": "four samplers at 2 to 60 steps; guidance; eta (chapter 07)",
    "strength": "image to image: what is decided at which strength (chapter 08)"}


def main(arguments: list[str] | None = None) -> None:
    """The command line: import the study that is named, and nothing else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    listed = "\n".join(f"  {name:22}{line}" for name, line in STUDIES.items())
    chooser = argparse.ArgumentParser(prog="python -m ldm_edu.studies", description=__doc__,
                                      epilog=f"NAME:\n{listed}\n\nNAME --help lists the options of one.",
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    chooser.add_argument("name", metavar="NAME", choices=STUDIES)
    name = chooser.parse_args(arguments[:1] or ["--help"]).name
    study = import_module(f".{name}", __package__)
    parser = command_line(f"ldm_edu.studies {name}", study.__doc__)
    study.add_options(parser)
    study.run(parse(parser, arguments[1:]))


if __name__ == "__main__":
    main()
