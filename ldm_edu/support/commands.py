"""One shape for every command line: a parser from a module's docstring, and the number of threads."""
from __future__ import annotations

import argparse


def command_line(prog: str, doc: str) -> argparse.ArgumentParser:
    """Start a parser for `python -m prog`, described by `doc`, with the option --threads."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse the arguments (None: those of the command line) and set the number of threads."""
    args = parser.parse_args(arguments)
    if args.threads:
        import torch  # not before: --help answers at once
        torch.set_num_threads(args.threads)
    return args
