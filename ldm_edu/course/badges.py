"""Writes whose repository this is, for people who open it on Colab: `python -m ldm_edu.course.badges owner/name`.

pyproject.toml holds the address. From there every notebook gets a Colab badge and the line that clones the repository,
README.md its badge and its clone command. Without a name the address of pyproject.toml is written anew, for example to
notebooks that were added; with "none" nothing shows a link. Only files that change are written; outputs stay.
"""
import re
import tomllib
from argparse import Namespace
from functools import partial
from pathlib import Path

import nbformat

from ..support.checks import expect
from ..support.commands import CommandLine, run_command
from ..support.files import replacing
from .sync import ROOT

BADGE = "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
NO_CLONE = 'raise FileNotFoundError("upload the zipped repository, then !unzip -q ldm_edu.zip")'
CLONE = re.compile(r"(?<=\n        )(!git clone .*|raise FileNotFoundError\(\"upload .*)$", re.MULTILINE)
SECTION = '[project.urls]  # written by `make badges REPO=owner/name`\nRepository = "https://github.com/{}"\n\n'


def checked(repo: str) -> str:
    """Return `repo` if it can be the name of a repository on GitHub, else raise ValueError."""
    expect(re.fullmatch(r"[\w-]+/[\w.-]+(?<!\.git)", repo, re.ASCII), "REPO", repr(repo),
           "owner/name as on GitHub, or none")
    return repo


def address(pyproject: str) -> str | None:
    """Find owner/name in the text of pyproject.toml."""
    url = tomllib.loads(pyproject)["project"].get("urls", {}).get("Repository")
    return checked(url.removeprefix("https://github.com/")) if url else None


def with_address(pyproject: str, repo: str | None) -> str:
    """Replace the address in the text of pyproject.toml by another, or by none."""
    pyproject = re.sub(r"\[project\.urls\].*\nRepository = .*\n\n", "", pyproject)
    return pyproject.replace("[tool.setuptools]", (SECTION.format(repo) if repo else "") + "[tool.setuptools]", 1)


def with_badge(markdown: str, repo: str | None, path: str) -> str:
    """Put the badge that opens `path` below the title of a text, or none without a repo."""
    markdown = re.sub(rf"^{re.escape(BADGE)}.*\n\n", "", markdown, flags=re.MULTILINE)
    title, _, rest = markdown.partition("\n\n")
    link = f"{BADGE}(https://colab.research.google.com/github/{repo}/blob/main/{path})"
    return "\n\n".join(filter(None, [title, link if repo else "", rest]))


def notebook(text: str, repo: str | None, path: str) -> str:
    """Change title cell and set-up cell of a notebook's text. Raises ValueError if no cell clones the repository."""
    notebook = nbformat.reads(text, as_version=4)
    first = notebook.cells[0]
    first.source = with_badge(first.source, repo, path)
    found = [cell for cell in notebook.cells if cell.cell_type == "code" and CLONE.search(cell.source)]
    expect(len(found) == 1, path, f"{len(found)} cells that clone the repository on Colab", "the set-up cell")
    clone = f"!git clone -q --depth 1 https://github.com/{repo} ldm_edu" if repo else NO_CLONE
    found[0].source = CLONE.sub(lambda _: clone, found[0].source)
    return nbformat.writes(notebook) + "\n"


def readme(text: str, repo: str | None) -> str:
    """Put a badge into the text of README.md, and a first command that clones."""
    text = re.sub(r"^git clone .*\n", "", with_badge(text, repo, "notebooks/00_tour.ipynb"), flags=re.MULTILINE)
    expect("\nmake lab " in text, "README.md", "no line that begins with 'make lab '", "one, to clone before it")
    clone = f"git clone --depth 1 https://github.com/{repo} ldm_edu && cd ldm_edu\n" if repo else ""
    return text.replace("\nmake lab ", f"\n{clone}make lab ", 1)


def stale(root: Path = ROOT, repo: str | None = "") -> dict[Path, str]:
    """Make the new text of each file that does not say `repo` ("": what pyproject.toml says)."""
    pyproject, page, *notebooks = root / "pyproject.toml", root / "README.md", *sorted(root.glob("notebooks/*.ipynb"))
    texts = {path: path.read_text(encoding="utf-8") for path in (pyproject, page, *notebooks)}
    repo = address(texts[pyproject]) if repo == "" else repo
    new = {pyproject: with_address(texts[pyproject], repo), page: readme(texts[page], repo)}
    new |= {path: notebook(texts[path], repo, f"notebooks/{path.name}") for path in notebooks}
    return {path: text for path, text in new.items() if text != texts[path]}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line."""
    parser = CommandLine("ldm_edu.course.badges", __doc__, threads=False)
    parser.add_argument("repo", nargs="?", help="owner/name on GitHub, or none (default: what pyproject.toml says)")
    run_command(parser, arguments, partial(write, root))


def write(root: Path, args: Namespace) -> None:
    """Write the files that do not say the address yet. Raises ValueError before anything is written."""
    repo = args.repo or ""
    changed = stale(root, None if repo == "none" else repo and checked(repo))
    for path, text in changed.items():
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        print(path.relative_to(root))
    repo = address((root / "pyproject.toml").read_text(encoding="utf-8"))
    print(f"{len(changed)} files written; the repository is {repo or 'nowhere'}")


if __name__ == "__main__":
    main()
