"""Repeat one of the measurements that the chapters show."""
from __future__ import annotations

from importlib import import_module

from ..support.commands import AGAIN, CommandLine, choose, one_sentence, run_command

STUDIES = {
    "after_the_unet": "noise or velocity, U-Net or transformer, at the same compute (chapter 12)",
    "bench": "time and memory of sampling, beside diffusers",
    "few_steps": "students of 8, 4, 2 and 1 steps beside their teacher (chapter 11)",
    "first_stage": "a small autoencoder with four losses, eight sizes and a codebook (chapter 03)",
    "gan_versus_diffusion": "both at the same training compute, five seeds each (chapter 10)",
    "pixel_unet": "train the pixel model of chapter 02, to data/pixels",
    "prompt_following": "what makes a U-Net follow its prompt (chapter 06)",
    "retrieval": "what CLIP can tell apart; with --study, how many pairs that takes (chapter 04)",
    "sampler_quality": "four samplers at 2 to 60 steps; guidance; eta (chapter 07)",
    "strength": "image to image: what each strength keeps; edits, and the true edit (chapter 08)"}
KEEP_FINISHED = ("after_the_unet", "few_steps", "first_stage", "gan_versus_diffusion", "prompt_following")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: import the study that is named, and nothing else."""
    name, arguments = choose("ldm_edu.studies", __doc__, STUDIES, arguments)
    go_on = "the same command goes on after the last finished training" if name in KEEP_FINISHED else AGAIN
    with one_sentence(go_on):
        study = import_module(f".{name}", __package__)
        parser = CommandLine(f"ldm_edu.studies {name}", study.__doc__)
        study.add_options(parser)
        run_command(parser, arguments, study.run, go_on)


if __name__ == "__main__":
    main()
