"""What the article states, and what came out when it was measured: data/claims.yaml, one entry per statement.

A chapter's measuring cell asserts the direction and ends with `claim("forward", "... the figure ...")`.
`python -m ldm_edu.course.claims` prints all entries as a Markdown table.
"""
from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from .. import DATA
from ..support.checks import expect
from ..support.commands import CommandLine, run_command


@dataclass(frozen=True)
class Claim:
    """One statement of the article, in our words."""

    id: str
    statement: str
    how: dict[str, str]                                    # chapter, "01" to "10" -> how it is measured there
    figure: dict[str, str] = field(default_factory=dict)   # chapter -> what came out, once it is written
    verdict: str = ""                                      # supported, qualified or refuted, by all figures so far
    correction: str = ""                                   # what holds instead, if qualified or refuted


def read_claims() -> dict[str, Claim]:
    """Read the claims, by id, in the file's order."""
    entries = yaml.safe_load((DATA / "claims.yaml").read_text(encoding="utf-8"))
    return {id: Claim(id, **entry) for id, entry in entries.items()}


def claim(id: str, figure: str) -> None:
    """Print the statement `id`, the `figure` just measured and the verdict in data/claims.yaml.

    Says so if another figure is entered there. Raises ValueError for an unknown id.
    """
    claims = read_claims()
    expect(id in claims, "claim", repr(id), f"one of {', '.join(claims)}")
    entry = claims[id]
    entered = "" if figure in entry.figure.values() else f"   (entered: {'; '.join(entry.figure.values())})"
    print(_wrapped("claim     ", f"{id}: {entry.statement}"))
    print(_wrapped("measured  ", f"{figure}{entered}"))
    print(_wrapped("verdict   ", ". ".join(filter(None, (entry.verdict, entry.correction)))))


def claims_table(claims: Iterable[Claim]) -> str:
    """Format claims in Markdown: statement, figure of each chapter, verdict and correction."""
    rows = ["| claim | the article says | chapter: what we measured | verdict |", "|---|---|---|---|"]
    for entry in claims:
        measured = "; ".join(f"{chapter}: {entry.figure.get(chapter, '*planned*')}" for chapter in entry.how)
        verdict = f"**{entry.verdict}** {entry.correction}".strip() if entry.verdict else ""
        cells = [f"`{entry.id}`", entry.statement, measured, verdict]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _wrapped(label: str, text: str) -> str:
    return textwrap.fill(label + text, width=88, subsequent_indent=" " * len(label), break_on_hyphens=False)


if __name__ == "__main__":
    run_command(CommandLine("ldm_edu.course.claims", __doc__, threads=False), None,
                lambda _: print(claims_table(read_claims().values())))
