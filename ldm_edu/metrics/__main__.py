"""Print the table of the model card, with one column for each sampler."""
from __future__ import annotations

from argparse import Namespace

from ..support.commands import command_line, run_command


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line("ldm_edu.metrics", __doc__)
    parser.add_argument("checkpoint", help="a folder such as data/tiny-worlds")
    parser.add_argument("--count", type=int, default=512, help="prompts per split")
    parser.add_argument("--steps", type=int, default=30, help="of the sampler")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="of several: mean and standard deviation")
    parser.add_argument("--samplers", nargs="+", default=["ddim", "ddpm"], help="one column for each")
    run_command(parser, arguments, print_table)


def print_table(args: Namespace) -> None:
    """Evaluate a checkpoint with each sampler and print the figures."""
    from .evaluation import table  # --help need not wait for torch

    print(*table(args.checkpoint, count=args.count, steps=args.steps, guidance_scale=args.guidance_scale,
                 seeds=args.seed, samplers=args.samplers), sep="\n")


if __name__ == "__main__":
    main()
