"""One shape for every command line: help shows defaults, wrong input is one sentence, Ctrl-C says how to go on."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

AGAIN = "the same command starts from the beginning"
RESUME = "the same command with --resume goes on from the last saved step"


class CommandLine(argparse.ArgumentParser):
    """A parser for `python -m prog`, described by `doc`, that says in one line what is wrong with an argument.

    threads: whether the command computes, and has the option --threads.
    """

    def __init__(self, prog: str, doc: str, threads: bool = True, **options):
        super().__init__(prog=f"python -m {prog}", description=doc, formatter_class=_Help, **options)
        if threads:
            self.add_argument("--threads", type=whole, help="CPU threads for torch (default: all cores)")

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or isinstance(default, bool) or default == argparse.SUPPRESS:
            return action.help
        return f"{action.help} (default: {' '.join(map(str, default)) if isinstance(default, list) else '%(default)s'})"


def choose(prog: str, doc: str, names: dict[str, str], arguments: list[str] | None) -> tuple[str, list[str]]:
    """Read which of `names` (a line about each) the arguments begin with; return it and the rest of the arguments.

    arguments: None for those of the command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    listed = "\n".join(f"  {name:22}{line}" for name, line in names.items())
    parser = CommandLine(prog, doc, threads=False, usage="%(prog)s NAME [options]",
                         epilog=f"NAME:\n{listed}\n\nNAME --help lists the options of one.")
    parser.add_argument("name", metavar="NAME", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args(arguments[:1] or ["--help"]).name, arguments[1:]


def whole(text: str, low: int = 1) -> int:
    """Read a whole number from `low` on: the type of an option."""
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from {low} on")
    return int(text)


natural = partial(whole, low=0)    # the type of a seed


def new_folder(text: str) -> Path:
    """Read a folder to write to, which need not exist: the type of --out."""
    path = Path(text)
    for file in filter(Path.is_file, (path, *path.parents)):    # refused at once, and not when a training is over
        raise argparse.ArgumentTypeError(f"got {text}, expected a folder, and {file} is a file")
    return path


@contextmanager
def one_sentence(go_on: str = AGAIN) -> Iterator[None]:
    """End a command with one sentence: exit code 2 for wrong input, 130 for Ctrl-C. go_on: what to do after that."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped: {go_on}.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, MemoryError, FloatingPointError) as error:    # FloatingPointError: a loss that is NaN
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        sys.exit(2)


def run_command(parser: CommandLine, arguments: list[str] | None, work: Callable, go_on: str = AGAIN) -> int | None:
    """Parse the arguments (None: those of the command line), set the threads, and return what the work with them does.

    Ends as `one_sentence` does.
    """
    with one_sentence(go_on):
        args = parser.parse_args(arguments)
        if hasattr(args, "threads") and "torch" not in sys.modules:    # not before: --help answers at once
            print("loading PyTorch", file=sys.stderr)
        if getattr(args, "threads", None):
            import torch
            torch.set_num_threads(args.threads)
        return work(args)
