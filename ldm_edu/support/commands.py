"""One shape for every command line: a name that chooses what to run, a parser from a docstring, the threads."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def choose(prog: str, doc: str, names: dict[str, str], arguments: list[str] | None) -> tuple[str, list[str]]:
    """Read which of `names` (a line about each) the arguments begin with; return it and the rest of the arguments.

    arguments: None for those of the command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    listed = "\n".join(f"  {name:22}{line}" for name, line in names.items())
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", usage="%(prog)s NAME [options]", description=doc,
                                     epilog=f"NAME:\n{listed}\n\nNAME --help lists the options of one.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args(arguments[:1] or ["--help"]).name, arguments[1:]


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


def run_command(parser: argparse.ArgumentParser, arguments: list[str] | None, work: Callable) -> None:
    """Parse the arguments and do the work with them; wrong input ends it with one sentence and exit code 2."""
    args = parse(parser, arguments)
    try:
        work(args)
    except (OSError, ValueError, FloatingPointError) as error:    # of a full disk, wrong input, a loss that is NaN
        parser.exit(2, f"{error}\n")
