"""Print the table of the model card, with one column for each sampler."""
from __future__ import annotations

from argparse import Namespace

from ..support.commands import CommandLine, natural, run_command, whole


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = CommandLine("ldm_edu.metrics", __doc__)
    parser.add_argument("checkpoint", help="a model: a folder such as data/tiny-worlds, or its name on the hub")
    parser.add_argument("--count", type=whole, default=512, help="prompts per split")
    parser.add_argument("--steps", type=whole, default=30, help="of the sampler")
    parser.add_argument("--guidance-scale", type=float, default=4.0, help="for prompts; 1 is no guidance")
    parser.add_argument("--seed", type=natural, nargs="+", default=[0],
                        help="of the noise; of several: mean and standard deviation")
    parser.add_argument("--samplers", nargs="+", default=["ddim", "ddpm"], help="one column for each")
    run_command(parser, arguments, print_table)


def print_table(args: Namespace) -> None:
    """Evaluate a checkpoint with each sampler and print the figures."""
    from .evaluation import table  # --help need not wait for torch

    print(*table(args.checkpoint, count=args.count, steps=args.steps, guidance_scale=args.guidance_scale,
                 seeds=args.seed, samplers=args.samplers), sep="\n")


if __name__ == "__main__":
    main()
