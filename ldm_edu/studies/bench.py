"""Our sampling beside that of diffusers: the same weights, the same process, in turn. Ratios first.

`make bench`, or `python -m ldm_edu.studies bench [FOLDER] [--sd] [--device cuda]`

A ratio above 1 says how many times as fast we are, or how many times as much memory diffusers needs. It is the median
over pairs of runs, one right after the other, so that whatever else the machine does slows both sides alike.
The distilled LoRA draws in 4 steps what takes diffusers 30 guided ones: 4 calls of the U-Net against 60.
--sd: also the U-Net of Stable Diffusion v1, with random weights (one copy, shared), 512 x 512 pixels, float32.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from .. import DATA
from ..conditioning import guided
from ..lora import load_lora, merge_lora
from ..pipeline import LatentDiffusion
from ..recipes.train_few_steps import STEPS as FEW_STEPS
from ..support.commands import whole
from ..support.device import device_name, pick_device
from ..unet import UNet, UNetConfig
from ..weights import UNET, config_to_json
from .cold_start import PROMPT, WAITS

BATCHES = {1: "1 picture", 4: "4 pictures", 16: "16 pictures"}


class Comparison(NamedTuple):
    """Seconds of one call, ours and theirs (medians), and the median of their ratios, theirs over ours."""

    ours: float
    theirs: float
    ratio: float


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], pairs: int,
                 device: str = "cpu") -> Comparison:
    """Time both `pairs` times, in turn, who goes first in turn as well, after one call of each to warm up."""
    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if device != "cpu":
            getattr(torch, device).synchronize()
        return time.perf_counter() - start

    seconds(ours), seconds(theirs)
    found = [(seconds(ours), seconds(theirs)) if k % 2 == 0 else (seconds(theirs), seconds(ours))[::-1]
             for k in range(pairs)]
    return Comparison(median(a for a, _ in found), median(b for _, b in found), median(b / a for a, b in found))


def load_theirs(folder: Path, device: str):
    """Open diffusers' pipeline in `folder`, silent."""
    import diffusers  # here: half of the measurements of memory must do without
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_theirs(pipeline, prompts: list[str], steps: int) -> Tensor:
    """Draw `prompts` with diffusers as `text_to_image` does: (B, 3, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    return 2 * pipeline(prompts, num_inference_steps=steps, guidance_scale=4.0, generator=generator,
                        output_type="pt").images - 1


@torch.no_grad()
def compare_steps(ours: LatentDiffusion, theirs, batch: int, device: str, pairs: int) -> Comparison:
    """Time one guided step of the U-Net."""
    context, empty, config = ours.text([PROMPT] * batch), ours.text([""]), ours.unet.config
    x = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size, device=device)
    t, both = torch.tensor(500, device=device), torch.cat([empty.expand_as(context), context])

    def their_step() -> Tensor:
        e_u, e_c = theirs.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
        return e_u + 4.0 * (e_c - e_u)

    return side_by_side(partial(guided(ours.unet, context, empty, 4.0), x, t), their_step, pairs, device)


@torch.no_grad()
def compare_sd(device: str, pairs: int) -> Comparison:
    """Time one guided step of Stable Diffusion v1's U-Net, in float32, with one copy of random weights."""
    from diffusers import UNet2DConditionModel
    with torch.device("meta"):
        ours, theirs = UNet(UNetConfig()), UNet2DConditionModel.from_config(config_to_json(UNET, UNetConfig()))
    weights = {name: 0.02 * torch.randn(value.shape, device=device) for name, value in ours.state_dict().items()}
    ours.eval().load_state_dict(weights, assign=True)
    theirs.eval().load_state_dict({UNET.theirs(name): value for name, value in weights.items()}, assign=True)
    x, both, t = (torch.randn(2, 4, 64, 64, device=device), torch.randn(2, 77, 768, device=device),
                  torch.tensor(500, device=device))
    return side_by_side(partial(ours, x, t, both), partial(theirs, x, t, both), pairs, device)


def fresh_process(side: str, folder: Path, device: str, pictures: int = 1) -> list[float]:
    """Return, of a fresh process, the seconds of each of WAITS, and the most bytes in use.

    side: "ours" or "theirs". Bytes on a CPU: of the whole process, libraries included; on a GPU: of the tensors alone.
    """
    command = [sys.executable, "-m", "ldm_edu.studies.cold_start", side, str(folder), device, str(pictures)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return [float(number) for number in found.split()]


def compare_cold_starts(folder: Path, device: str, pairs: int) -> dict[str, Comparison]:
    """Time, in fresh processes in turn, what WAITS lists, and the sum."""
    def seconds(side: str) -> list[float]:
        *found, _ = fresh_process(side, folder, device)
        return [*found, sum(found)]

    seconds("ours"), seconds("theirs")    # so that both find their files in the system's cache
    runs = [(seconds("ours"), seconds("theirs")) for _ in range(pairs)]
    found = {}
    for k, stage in enumerate((*WAITS, "all of it")):
        ours, theirs = ([run[side][k] for run in runs] for side in (0, 1))
        found[stage] = Comparison(median(ours), median(theirs), median(b / a for a, b in zip(ours, theirs)))
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "tiny-worlds", help="a model")
    parser.add_argument("--device", choices=sorted({"cpu", pick_device()}), default=pick_device(), help="to run on")
    parser.add_argument("--steps", type=whole, default=30, help="of the sampler")
    parser.add_argument("--pairs", type=whole, default=7, help="of runs that are compared")
    parser.add_argument("--sd", action="store_true", help="the U-Net of Stable Diffusion v1, too")


def run(args: argparse.Namespace) -> None:
    """Print tables in Markdown."""
    folder, device, pairs, steps = args.folder, args.device, args.pairs, args.steps
    print(f"{device_name(device)}, torch {torch.__version__}, float32, {folder}")
    ours, theirs = LatentDiffusion.from_pretrained(folder, device), load_theirs(folder, device)
    difference = (ours.text_to_image(PROMPT, steps) - draw_theirs(theirs, [PROMPT], steps)).abs().max()
    print(f"largest difference between our picture and theirs: {difference:.1e} on a scale from -1 to 1\n")
    print("| faster than diffusers by | | ours | diffusers |\n|---|---|---|---|")
    for batch, pictures in BATCHES.items():
        _print_row(f"one guided step, {pictures}", compare_steps(ours, theirs, batch, device, 5 * pairs))
    for batch, pictures in BATCHES.items():
        draw = partial(ours.text_to_image, steps=steps), partial(draw_theirs, theirs, steps=steps)
        found = side_by_side(*(partial(side, [PROMPT] * batch) for side in draw), pairs, device)
        _print_row(f"{steps} steps and decoding, {pictures}", found)
    if folder.resolve() == (DATA / "tiny-worlds").resolve():    # what the LoRA was made for
        load_lora(ours, DATA / "few-steps")
        merge_lora(ours.unet)
        for batch, pictures in BATCHES.items():
            draw = partial(ours.text_to_image, steps=FEW_STEPS), partial(draw_theirs, theirs, steps=steps)
            found = side_by_side(*(partial(side, [PROMPT] * batch) for side in draw), pairs, device)
            _print_row(f"{FEW_STEPS} distilled steps against {steps} guided ones, {pictures}", found)
    if args.sd:
        _print_row("one guided step at the size of SD v1, 1 picture", compare_sd(device, max(2, pairs // 2)))
    for stage, found in compare_cold_starts(folder, device, max(2, pairs // 2)).items():
        _print_row(f"in a fresh process: {stage}", found)
    for batch in (1, 16):
        a, b = (fresh_process(side, folder, device, batch)[-1] / 2**20 for side in ("ours", "theirs"))
        print(f"| **{b / a:.2f}** | peak memory, {BATCHES[batch]} | {a:,.0f} MiB | {b:,.0f} MiB |", flush=True)


def _print_row(name: str, found: Comparison) -> None:
    ours, theirs = 1000 * found.ours, 1000 * found.theirs
    print(f"| **{found.ratio:.2f}** | {name} | {ours:,.1f} ms | {theirs:,.1f} ms |", flush=True)
