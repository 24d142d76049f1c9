"""What the article states, and what came out when it was measured: data/claims.yaml, one entry a statement.

A chapter's measuring cell asserts the direction and ends with `claim("forward", "... the figure ...")`.
`python -m ldm_edu.claims` prints the ledger as a Markdown table.
"""
from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from .. import DATA

VERDICTS = ("supported", "qualified", "refuted")


@dataclass(frozen=True)
class Claim:
    """One statement of the article, in our words.

    how: chapter, "01" to "10" -> how it is measured there. figure: chapter -> what came out, once it is written.
    verdict: one of VERDICTS, on all figures so far. correction: what holds instead, if qualified or refuted.
    Raises ValueError for an entry that contradicts this.
    """

    id: str
    statement: str
    how: dict[str, str]
    figure: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    correction: str = ""

    def __post_init__(self):
        _check_text(f"{self.id}: statement", self.statement)
        for name in ("how", "figure"):
            for chapter, text in getattr(self, name).items():
                if chapter not in self.how or not isinstance(chapter, str):
                    raise ValueError(f"{self.id}: {name}: got chapter {chapter!r}, expected one under how, in quotes")
                _check_text(f"{self.id}: {name} in chapter {chapter}", text)
        if self.verdict not in ("", *VERDICTS):
            raise ValueError(f"{self.id}: verdict: got {self.verdict!r}, expected one of {', '.join(VERDICTS)}")
        if bool(self.verdict) != bool(self.figure):
            raise ValueError(f"{self.id}: got a verdict without a figure, or a figure without a verdict")
        if bool(self.correction) != (self.verdict in ("qualified", "refuted")):
            raise ValueError(f"{self.id}: expected a correction if the verdict is qualified or refuted, else none")
        if self.correction:
            _check_text(f"{self.id}: correction", self.correction)


def read_claims() -> dict[str, Claim]:
    """The ledger, by id, in the file's order. Raises ValueError for a field that is missing, unknown or wrong."""
    text = (DATA / "claims.yaml").read_text(encoding="utf-8")
    ids = [key.value for key, _ in yaml.compose(text).value]
    if twice := [id for id in ids if ids.count(id) > 1]:    # of which yaml would silently keep the last
        raise ValueError(f"{twice[0]}: got two entries, expected one")
    claims = {}
    for id, entry in yaml.safe_load(text).items():
        try:
            claims[id] = Claim(id, **entry)
        except TypeError as error:
            raise ValueError(f"{id}: {error}") from None
    return claims


def claim(id: str, figure: str) -> None:
    """Print the statement `id`, the `figure` just measured and the verdict that data/claims.yaml has for it.

    A figure that is not the one entered there is said to be so. Raises ValueError if there is no such statement,
    and if no figure and verdict are entered yet.
    """
    claims = read_claims()
    if id not in claims:
        raise ValueError(f"claim: got {id!r}, expected one of {', '.join(claims)}")
    entry = claims[id]
    if not entry.verdict:
        raise ValueError(f"claim {id}: data/claims.yaml has no figure and verdict yet; enter figure: {figure!r}")
    entered = "" if figure in entry.figure.values() else f"   (entered: {'; '.join(entry.figure.values())})"
    print(_wrapped("claim     ", f"{id}: {entry.statement}"))
    print(f"measured  {figure}{entered}")
    print(_wrapped("verdict   ", ". ".join(filter(None, (entry.verdict, entry.correction)))))


def claims_table(claims: Iterable[Claim]) -> str:
    """The ledger in Markdown: statement, figure of each chapter, verdict and correction."""
    rows = ["| claim | the article says | chapter: what we measured | verdict |", "|---|---|---|---|"]
    for entry in claims:
        measured = "; ".join(f"{chapter}: {entry.figure.get(chapter, '*planned*')}" for chapter in entry.how)
        verdict = f"**{entry.verdict}** {entry.correction}".strip() if entry.verdict else ""
        cells = [f"`{entry.id}`", entry.statement, measured, verdict]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or not text or text != " ".join(text.split()):
        raise ValueError(f"{name}: got {text!r}, expected one line of text (in quotes, if a number)")


def _wrapped(label: str, text: str) -> str:
    return textwrap.fill(label + text, width=88, subsequent_indent=" " * len(label), break_on_hyphens=False)


if __name__ == "__main__":
    print(claims_table(read_claims().values()))
