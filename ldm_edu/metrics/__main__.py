"""`python -m ldm_edu.metrics FOLDER` prints the table of the model card."""
from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from ..pipeline import LatentDiffusion
from ..samplers import SAMPLERS
from .evaluation import GUIDANCE_SCALE, RENDERS, captions_of, evaluate, evaluate_autoencoder
from .oracle import Oracle


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.metrics", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=512, help="prompts per split")
    parser.add_argument("--steps", type=int, default=30, help="of the sampler")
    parser.add_argument("--guidance", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", default=["ddim", "ddpm"], choices=SAMPLERS, help="a column for each")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    ldm, oracle = LatentDiffusion.from_pretrained(args.checkpoint), Oracle.load()
    scenes, prompts = RENDERS * args.count, [c.text for c in captions_of("validation", 16)]
    print(f"| {args.count} prompts a split, {args.steps} steps, guidance {args.guidance:g} ({REFERENCE_GUIDANCE_SCALE:g} for "
          f"pictures and maps), seed {args.seed}; {scenes} renders and reconstructions | {' | '.join(args.samplers)} |")
    print("|---" * (1 + len(args.samplers)) + "|")
    first, columns, seconds = evaluate_autoencoder(ldm, oracle, scenes), [], []
    for sampler in args.samplers:
        columns.append(first | evaluate(ldm, oracle, args.count, args.steps, args.guidance, args.seed, sampler))
        start = time.perf_counter()
        ldm.text_to_image(prompts, args.steps, args.guidance, sampler=sampler)
        seconds.append(f"{time.perf_counter() - start:.1f} s")
    for name in columns[0]:
        form = "{:.1f}" if name.endswith("dB") else "{:.1%}"
        print("|", " | ".join([name, *(form.format(column[name]) for column in columns)]), "|")
    print(f"| 16 pictures, {args.steps} steps, {torch.get_num_threads()} CPU threads | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
