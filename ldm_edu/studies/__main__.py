"""Repeat one of the measurements that the chapters show."""
from __future__ import annotations

from importlib import import_module

from ..support.commands import choose, command_line, run_command

STUDIES = {
    "bench": "time and memory of sampling, beside diffusers",
    "first_stage": "a small autoencoder with four losses, eight sizes and a codebook (chapter 03)",
    "gan_versus_diffusion": "both at the same training compute, five seeds each (chapter 10)",
    "pixel_unet": "train the pixel model of chapter 02, to data/pixels",
    "prompt_following": "what makes a U-Net follow its prompt (chapter 06)",
    "retrieval": "what CLIP can tell apart; with --study, how many pairs that takes (chapter 04)",
    "sampler_quality": "four samplers at 2 to 60 steps; guidance; eta (chapter 07)",
    "strength": "image to image: what is decided at which strength (chapter 08)"}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: import the study that is named, and nothing else."""
    name, arguments = choose("ldm_edu.studies", __doc__, STUDIES, arguments)
    study = import_module(f".{name}", __package__)
    parser = command_line(f"ldm_edu.studies {name}", study.__doc__)
    study.add_options(parser)
    run_command(parser, arguments, study.run)


if __name__ == "__main__":
    main()
