"""Runs notebooks and stores their outputs: `python -m ldm_edu.course.refresh notebooks/00_tour.ipynb ...`

Each runs in a fresh kernel in its own folder. Widgets and metadata that change from run to run are left out. A notebook
with a cell that raises, writes to stderr or shows a widget without the tag nbval-ignore-output keeps what it has. With
--out the results go to that folder instead, each notebook's first picture beside it.
"""
import base64
import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from ..support.checks import expect
from ..support.commands import CommandLine, new_folder, run_command
from .sync import save

WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT = {"tags", "jupyter", "nbgrader", "cellView"}  # of a cell's metadata
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}


def execute(path: Path, timeout: int = 300):
    """Run the notebook at `path` and return it with its outputs. timeout: seconds per cell. Raises as nbclient does."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=timeout, coalesce_streams=True,
                   record_timing=False, store_widget_state=False, extra_arguments=["--log-level=ERROR"],
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def clean(notebook) -> None:
    """Remove, in place, what is not stored. Raises ValueError for stderr and for a widget without its tag."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(f"code cell {number} writes to stderr: {output.text.strip()}")
            if WIDGET in output.get("data", {}) and not ignored:
                raise ValueError(f"code cell {number} shows a widget: tag it nbval-ignore-output")
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    for cell in notebook.cells:
        for key in set(cell.metadata) - KEPT:
            del cell.metadata[key]


def first_picture(notebook) -> tuple[str, bytes] | None:
    """Find suffix and bytes of the first PNG or JPEG among the outputs."""
    suffixes = {"image/png": ".png", "image/jpeg": ".jpg"}
    return next(((suffixes[mime], base64.b64decode(data)) for cell in notebook.cells
                 for output in cell.get("outputs", []) for mime, data in output.get("data", {}).items()
                 if mime in suffixes), None)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the number of notebooks that failed."""
    parser = CommandLine("ldm_edu.course.refresh", __doc__, threads=False)
    parser.add_argument("notebooks", nargs="+", type=Path, help="files to run")
    parser.add_argument("--out", type=new_folder, help="leave the notebooks as they are and write to this folder")
    return run_command(parser, arguments, refresh)


def refresh(options: Namespace) -> int:
    """Run the notebooks and store their outputs; return the number of notebooks that failed."""
    os.environ.pop("MPLBACKEND", None)  # figures are drawn inline
    failed = 0
    for path in options.notebooks:
        expect(path.suffix == ".ipynb" and path.is_file(), "notebooks", path, "notebooks that are there")
    for path in options.notebooks:
        start, target = time.time(), options.out / path.name if options.out else path
        try:
            notebook = execute(path)
            clean(notebook)
        except (CellExecutionError, CellTimeoutError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        save(notebook, target)
        print(f"{target}: {time.time() - start:.0f} s, {target.stat().st_size / 1e3:.0f} kB")
        if options.out and (picture := first_picture(notebook)):
            target.with_suffix(picture[0]).write_bytes(picture[1])
            print(target.with_suffix(picture[0]))
    return failed


if __name__ == "__main__":
    sys.exit(main())
