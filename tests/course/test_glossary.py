"""The glossary names what there is, and sends readers to the chapter that shows it."""
import re

import nbformat

from ldm_edu.course.sync import ROOT, package, shown

SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ldm_edu").rglob("*.py"))
KNOWN = package()
CHAPTER = {definition.name: path.stem[:2] for path in (ROOT / "notebooks").glob("*.ipynb")
           for _, definition in shown(nbformat.read(path, as_version=4), KNOWN)}


def entries() -> list[tuple[str, list[str], list[str]]]:
    """(word, names in the package, chapters) of each row of the glossary's tables."""
    text = (ROOT / "notebooks/glossary.md").read_text(encoding="utf-8")
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in text.splitlines() if re.match(r"\| (?!symbol|word)", line)]
    assert all(len(row) == 4 for row in rows) and len(rows) > 50
    return [(row[0], re.findall(r"`(\w+)`", " ".join(row)), re.findall(r"\d\d", row[-1])) for row in rows]


def test_each_name_is_in_the_package():
    missing = [name for _, names, _ in entries() for name in names if not re.search(rf"\b{name}\b", SOURCE)]
    assert missing == []


def test_each_chapter_is_the_one_that_shows_it():
    for word, names, chapters in entries():
        assert chapters, word
        for name in set(names) & CHAPTER.keys():
            assert CHAPTER[name] <= max(chapters), f"{word}: {name} is shown in chapter {CHAPTER[name]}"


def test_words_are_in_order_and_once():
    words = [word.casefold() for word, _, _ in entries()]
    second = words.index("attention")    # the first table is in the order of the series
    assert words[second:] == sorted(words[second:]) and len(set(words)) == len(words)
