"""The measurements that the chapters show, recorded in data/: `python -m ldm_edu.studies NAME`."""


def print_row(row: tuple) -> None:
    """Print a row of a table."""
    print(" | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row), flush=True)
