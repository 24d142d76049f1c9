"""Writes whose repository this is, for people who open it on Colab: `python tests/badges.py owner/name`.

pyproject.toml holds the address. From there every notebook gets a Colab badge and the line that clones the repository,
README.md its badge and its clone command. Without a name the address in pyproject.toml is written anew, to notebooks
that were added, say. With "none" there is no address, and nothing shows a link that leads nowhere. Only files that
change are written; outputs stay.
"""
import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat

from .sync import ROOT, save

BADGE = "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
NO_CLONE = 'raise FileNotFoundError("upload the repository as the folder ldm_edu first")'
CLONE = re.compile(r"(?<=\n        )(!git clone .*|raise FileNotFoundError\(\"upload .*)$", re.MULTILINE)
SECTION = '[project.urls]  # written by `make badges REPO=owner/name`\nRepository = "https://github.com/{}"\n\n'


def checked(repo: str) -> str:
    """`repo` if it can be the name of a repository on GitHub. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}/[\w.-]{1,100}", repo, re.ASCII) or \
            repo.endswith((".git", "/.", "/..")):
        raise ValueError(f"REPO: got {repo!r}, expected owner/name as on GitHub, or none")
    return repo


def address(pyproject: str) -> str | None:
    """owner/name in the text of pyproject.toml, if it has one."""
    url = tomllib.loads(pyproject)["project"].get("urls", {}).get("Repository")
    return checked(url.removeprefix("https://github.com/")) if url else None


def with_address(pyproject: str, repo: str | None) -> str:
    """The text of pyproject.toml with another address, or none."""
    pyproject = re.sub(r"\[project\.urls\].*\nRepository = .*\n\n", "", pyproject)
    return pyproject.replace("[tool.setuptools]", (SECTION.format(repo) if repo else "") + "[tool.setuptools]", 1)


def with_badge(markdown: str, repo: str | None, path: str) -> str:
    """A text that begins with its title, below it the badge that opens `path`, or none if there is no repo."""
    markdown = re.sub(rf"^{re.escape(BADGE)}.*\n\n", "", markdown, flags=re.MULTILINE)
    title, _, rest = markdown.partition("\n\n")
    link = f"{BADGE}(https://colab.research.google.com/github/{repo}/blob/main/{path})"
    return "\n\n".join(filter(None, [title, link if repo else "", rest]))


def notebook(notebook, repo: str | None, path: str) -> None:
    """Changes, in place, the title cell and the set-up cell. Raises ValueError if that clones nothing."""
    first = notebook.cells[0]
    first.source = with_badge(first.source, repo, path)
    found = [cell for cell in notebook.cells if cell.cell_type == "code" and CLONE.search(cell.source)]
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} cells that clone the repository on Colab, expected the set-up cell")
    clone = f"!git clone -q https://github.com/{repo} ldm_edu" if repo else NO_CLONE
    found[0].source = CLONE.sub(lambda _: clone, found[0].source)


def readme(text: str, repo: str | None) -> str:
    """README.md with a badge, and a first command that clones."""
    text = re.sub(r"^git clone .*\n", "", with_badge(text, repo, "notebooks/00_tour.ipynb"), flags=re.MULTILINE)
    if "\nmake lab " not in text:
        raise ValueError("README.md: expected a line that begins with 'make lab ', for the clone command before it")
    clone = f"git clone https://github.com/{repo} ldm_edu && cd ldm_edu\n" if repo else ""
    return text.replace("\nmake lab ", f"\n{clone}make lab ", 1)


def stale(root: Path = ROOT, repo: str | None = "") -> dict[Path, object]:
    """New content, text or notebook, of each file that does not say `repo`; by default what pyproject.toml says."""
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "pyproject.toml", root / "README.md")}
    pyproject, page = texts
    repo = address(texts[pyproject]) if repo == "" else repo
    new = {pyproject: with_address(texts[pyproject], repo), page: readme(texts[page], repo)}
    changed = {path: text for path, text in new.items() if text != texts[path]}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        stored, fresh = (nbformat.read(path, as_version=4) for _ in range(2))
        notebook(fresh, repo, f"notebooks/{path.name}")
        if fresh != stored:
            changed[path] = fresh
    return changed


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo", nargs="?", default="", help="owner/name on GitHub, or none")
    repo = parser.parse_args(arguments).repo
    try:
        changed = stale(root, None if repo == "none" else repo and checked(repo))
    except ValueError as error:    # before anything is written
        print(error, file=sys.stderr)
        return 2
    for path, content in changed.items():
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            save(content, path)
        print(path.relative_to(root))
    repo = address((root / "pyproject.toml").read_text(encoding="utf-8"))
    print(f"{len(changed)} files written; the repository is {repo or 'nowhere'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
