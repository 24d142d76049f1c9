"""Our sampling beside that of diffusers: the same weights, one run, turn by turn. Ratios first.

`make bench`, or `python -m ldm_edu.bench [FOLDER] [--sd] [--train] [--device cuda]`

A ratio above 1 says how many times as fast we are, or how many times as much memory diffusers needs. It is the median
over pairs of runs that follow each other at once, so that what else the machine does strikes both sides alike.
--sd: the U-Net of Stable Diffusion v1 as well, with random weights (one copy, shared), 512 x 512 pixels, float32.
--train: nothing but a step of training on a CPU, `training.arithmetic`'s faster ways against plain float32.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import DATA
from ..conditioning import guided
from ..pipeline import LatentDiffusion
from ..support.arithmetic import PRECISIONS, arithmetic
from ..unet import UNet, UNetConfig
from ..weights import UNET, config_to_json

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")
PROMPT = "a big red house on the left and a small green boat, at night, on the snow"


class Comparison(NamedTuple):
    """Seconds of one call, ours and theirs (medians), and the median of their ratios, theirs over ours."""

    ours: float
    theirs: float
    ratio: float


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], pairs: int,
                 synchronize: Callable[[], None] = lambda: None) -> Comparison:
    """Time both `pairs` times, in turn, who goes first in turn as well, after one call of each to warm up."""
    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        synchronize()
        return time.perf_counter() - start

    seconds(ours), seconds(theirs)
    found = []
    for k in range(pairs):
        first, second = (ours, theirs) if k % 2 == 0 else (theirs, ours)
        a, b = seconds(first), seconds(second)
        found.append((a, b) if k % 2 == 0 else (b, a))
    return Comparison(median(a for a, _ in found), median(b for _, b in found), median(b / a for a, b in found))


def load_theirs(folder: Path, device: str):
    """diffusers' pipeline in `folder`, silent."""
    import diffusers  # here: half of the measurements of memory must do without
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_theirs(pipeline, prompts: list[str], steps: int) -> Tensor:
    """The pictures of diffusers for `prompts`, (B, 3, H, W) in [-1, 1], as `text_to_image` would draw them."""
    generator = torch.Generator().manual_seed(0)
    return 2 * pipeline(prompts, num_inference_steps=steps, guidance_scale=4.0, generator=generator,
                        output_type="pt").images - 1


def compare_pipelines(folder: Path, device: str, steps: int, pairs: int) -> list[tuple[str, Comparison]]:
    """Guided steps of the U-Net, and whole pictures, for 1, 4 and 16 prompts; prints how far the pictures differ."""
    ours, theirs = LatentDiffusion.from_pretrained(folder, device), load_theirs(folder, device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    rows, t = [], torch.tensor(500, device=device)
    with torch.no_grad():
        for batch in (1, 4, 16):
            context, empty = ours.text([PROMPT] * batch), ours.text([""])
            side = ours.unet.config.sample_size
            x = torch.randn(batch, ours.unet.config.in_channels, side, side, device=device)
            eps, both = guided(ours.unet, context, empty, 4.0), torch.cat([empty.expand_as(context), context])

            def their_step(x=x, both=both) -> Tensor:
                e_u, e_c = theirs.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
                return e_u + 4.0 * (e_c - e_u)

            rows.append((f"one guided step, {batch} picture{'s' * (batch > 1)}",
                         side_by_side(lambda x=x, eps=eps: eps(x, t), their_step, 5 * pairs, wait)))
        for batch in (1, 4, 16):
            prompts = [PROMPT] * batch
            rows.append((f"{steps} steps and decoding, {batch} picture{'s' * (batch > 1)}",
                         side_by_side(lambda p=prompts: ours.text_to_image(p, steps),
                                      lambda p=prompts: draw_theirs(theirs, p, steps), pairs, wait)))
    difference = (ours.text_to_image(PROMPT, steps) - draw_theirs(theirs, [PROMPT], steps)).abs().max()
    print(f"largest difference between our picture and theirs: {difference:.1e} on a scale from -1 to 1\n")
    return rows


def sd_unets(device: str) -> tuple[UNet, nn.Module]:
    """Our U-Net and diffusers' at the size of Stable Diffusion v1, in float32, with one copy of random weights."""
    from diffusers import UNet2DConditionModel
    with torch.device("meta"):
        ours, theirs = UNet(UNetConfig()), UNet2DConditionModel.from_config(config_to_json(UNET, UNetConfig()))
    generator = torch.Generator(device).manual_seed(0)
    weights = {name: torch.randn(value.shape, generator=generator, device=device).mul_(0.02)
               for name, value in ours.state_dict().items()}
    ours.load_state_dict(weights, assign=True)
    theirs.load_state_dict({UNET.theirs(name): value for name, value in weights.items()}, assign=True)
    return ours.eval(), theirs.eval()


def compare_sd(device: str, pairs: int) -> list[tuple[str, Comparison]]:
    """One guided step of the U-Net of Stable Diffusion v1, 512 x 512 pixels."""
    ours, theirs = sd_unets(device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    x, both, t = (torch.randn(2, 4, 64, 64, device=device), torch.randn(2, 77, 768, device=device),
                  torch.tensor(500, device=device))
    with torch.no_grad():
        found = side_by_side(lambda: ours(x, t, both), lambda: theirs(x, t, encoder_hidden_states=both).sample,
                             pairs, wait)
    return [("one guided step at the size of SD v1, 1 picture", found)]


def compare_training(folder: Path, precision: str, pairs: int, batch: int = 64) -> Comparison:
    """Forward and backward through the U-Net in `folder`: with `precision`, and as "theirs" with "float32"."""
    unet = LatentDiffusion.from_pretrained(folder).unet.requires_grad_(True).to(memory_format=torch.channels_last)
    size, width = unet.config.sample_size, unet.config.context_dim
    x, context = torch.randn(batch, unet.config.in_channels, size, size), torch.randn(batch, 32, width)

    def step(precision: str) -> None:
        with arithmetic(precision):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = unet(x, torch.arange(batch), context).square().mean()
            loss.backward()

    return side_by_side(lambda: step(precision), lambda: step("float32"), pairs)


def peak_memory(side: str, folder: Path, device: str, batch: int) -> int:
    """Bytes at most in use while a fresh process loads `folder` and draws `batch` pictures, by "ours" or "theirs".

    On a CPU of the whole process, libraries included; on a GPU of the tensors alone.
    """
    command = [sys.executable, "-m", "ldm_edu.bench", str(folder), "--device", device, "--peak", side, str(batch)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def _print_peak(side: str, folder: Path, device: str, batch: int) -> None:
    if side == "ours":
        LatentDiffusion.from_pretrained(folder, device).text_to_image([PROMPT] * batch, 4)
    else:
        draw_theirs(load_theirs(folder, device), [PROMPT] * batch, 4)
    if device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated())
    else:
        print(_most_resident())


def _most_resident() -> int:
    """Bytes of memory that this process has held at most."""
    if sys.platform == "linux":    # whose getrusage counts what the parent held when it forked
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource  # which Windows lacks
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.bench", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "tiny-worlds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=7, help="of runs that are compared")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    parser.add_argument("--sd", action="store_true", help="the U-Net of Stable Diffusion v1, too")
    parser.add_argument("--train", action="store_true", help="a step of training in each precision, nothing else")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        _print_peak(args.peak[0], args.folder, args.device, int(args.peak[1]))
        return
    if args.train:
        print("| faster than float32 by | a step of training | ours | float32 |\n|---|---|---|---|")
        for precision in PRECISIONS[1:]:
            found = compare_training(args.folder, precision, args.pairs)
            ours, theirs = 1000 * found.ours, 1000 * found.theirs
            print(f"| **{found.ratio:.2f}** | {precision} | {ours:,.0f} ms | {theirs:,.0f} ms |")
        return
    on_gpu = args.device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, {args.folder}")
    rows = compare_pipelines(args.folder, args.device, args.steps, args.pairs)
    rows += compare_sd(args.device, max(2, args.pairs // 2)) if args.sd else []
    print("| faster than diffusers by | | ours | diffusers |\n|---|---|---|---|")
    for name, found in rows:
        print(f"| **{found.ratio:.2f}** | {name} | {1000 * found.ours:,.1f} ms | {1000 * found.theirs:,.1f} ms |")
    for batch in (1, 16):
        ours, theirs = (peak_memory(side, args.folder, args.device, batch) / 2**20 for side in ("ours", "theirs"))
        name = f"peak memory, {batch} picture{'s' * (batch > 1)}"
        print(f"| **{theirs / ours:.2f}** | {name} | {ours:,.0f} MiB | {theirs:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
