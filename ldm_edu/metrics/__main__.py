"""Print the table of the model card, with one column for each sampler."""
from __future__ import annotations

import time
from argparse import Namespace

from ..support.commands import command_line, run_command


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line("ldm_edu.metrics", __doc__)
    parser.add_argument("checkpoint", help="a folder such as data/tiny-worlds")
    parser.add_argument("--count", type=int, default=512, help="prompts per split")
    parser.add_argument("--steps", type=int, default=30, help="of the sampler")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", default=["ddim", "ddpm"], help="one column for each")
    run_command(parser, arguments, print_table)


def print_table(args: Namespace) -> None:
    """Evaluate a checkpoint with each sampler and print the figures."""
    import torch

    from ..pipeline import LatentDiffusion
    from ..samplers import SAMPLERS
    from ..support.checks import expect
    from .evaluation import REFERENCE_GUIDANCE_SCALE, RENDERS, captions_of, evaluate, evaluate_autoencoder
    from .oracle import Oracle

    expect({*args.samplers} <= {*SAMPLERS}, "samplers", " ".join(args.samplers), f"some of {', '.join(SAMPLERS)}")
    ldm, oracle = LatentDiffusion.from_pretrained(args.checkpoint), Oracle.load()
    side = ldm.unet.config.sample_size * ldm.autoencoder.factor
    expect(side == 64, "checkpoint", f"a model of {side} x {side} pixels", "64 x 64, which the oracle reads")
    scenes, prompts = RENDERS * args.count, [c.text for c in captions_of("validation", 16)]
    print(f"| {args.count} prompts a split, {args.steps} steps, guidance {args.guidance_scale:g} "
          f"({REFERENCE_GUIDANCE_SCALE:g} for pictures and maps), seed {args.seed}; {scenes} renders and "
          f"reconstructions | {' | '.join(args.samplers)} |")
    print("|---" * (1 + len(args.samplers)) + "|")
    first, columns, seconds = evaluate_autoencoder(ldm, oracle, scenes), [], []
    for sampler in args.samplers:
        options = args.steps, args.guidance_scale, args.seed
        columns.append(first | evaluate(ldm, oracle, args.count, *options, sampler))
        start = time.perf_counter()
        ldm.text_to_image(prompts, args.steps, args.guidance_scale, sampler=sampler)
        seconds.append(f"{time.perf_counter() - start:.1f} s")
    for name in columns[0]:
        form = "{:.1f}" if name.endswith("dB") else "{:.1%}"
        print("|", " | ".join([name, *(form.format(column[name]) for column in columns)]), "|")
    print(f"| 16 pictures, {args.steps} steps, {torch.get_num_threads()} CPU threads | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
