"""The Markdown pages: their Python runs as it stands, their links lead somewhere, their commands exist."""
import io
import json
import re
import shutil
import tarfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.tiny_worlds.datasets import read_folder

ROOT = DATA.parent
PAGES = [ROOT / page for page in ("README.md", "ldm_edu/README.md", "notebooks/instructors.md",
                                  "data/tiny-worlds/README.md", "notebooks/your_own_pictures.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path, text: str) -> list[str]:
    """Those to files and headings; other sites are not asked."""
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)}
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [link for link in links
            if (link[1:] not in anchors if link.startswith("#") else not (page.parent / link.split("#")[0]).exists())]


def runs(module: str) -> bool:
    """Whether `python -m module` does anything."""
    try:
        spec = find_spec(module)
        if spec and spec.submodule_search_locations:    # a room
            spec = find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        return False
    return spec is not None and 'if __name__ == "__main__":' in Path(spec.origin).read_text(encoding="utf-8")


def helps(room: str, name: str) -> bool:
    """Whether `python -m room name --help` explains itself."""
    with pytest.raises(SystemExit) as end:
        import_module(f"{room}.__main__").main([name, "--help"])
    return not end.value.code


def unknown_commands(text: str) -> list[str]:
    """What stands after `-m` and does not run, and recipes and studies that do not exist."""
    modules = re.findall(r"-m (ldm_edu(?:\.\w+)*)", text)
    names = re.findall(r"-m (ldm_edu\.(?:recipes|studies)) ([a-z]\w*)", text)    # NAME stands for any
    return [m for m in dict.fromkeys(modules) if not runs(m)] + [
        " ".join(command) for command in dict.fromkeys(names) if not helps(*command)]


def run_blocks(page: Path) -> dict:
    """Run all Python of a page in one go, as somebody who copies it would; return what it defined."""
    blocks = re.findall(r"^```python\n(.*?)^```", TEXTS[page], re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_python_of_the_pages_draws_pictures(monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self.size))    # opens no window
    run_blocks(PAGES[0])
    assert shown == [(256, 256)]
    assert run_blocks(PAGES[1])["boats"].shape == (1, 3, 64, 64)


def test_the_page_on_your_own_pictures_prepares_and_counts(tmp_path, monkeypatch, capsys):
    """With a package of its own making in place of npm's, and the shipped model in place of one trained on it."""
    image, file = Image.new("RGBA", (64, 64), (255, 0, 0, 0)), io.BytesIO()
    image.save(file, "PNG")
    kinds = {"1F3FB": {"image": "0-light.png"}, "1F3FB-1F3FF": {"image": "two people.png"}}
    emoji = [{"subcategory": "person", "name": f"MAN: NO. {i}", "image": f"{i}.png"} for i in range(12)]
    emoji[0]["skin_variations"] = kinds
    files = {f"img/twitter/64/{name}.png": file.getvalue() for name in [*range(12), "0-light"]}
    files["emoji.json"] = json.dumps([*emoji, {"subcategory": "country-flag"}]).encode()
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as package:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    (tmp_path / "data").mkdir()
    shutil.copytree(DATA / "tiny-worlds", tmp_path / "data/people")
    monkeypatch.setattr("urllib.request.urlopen", lambda url: open(tmp_path / "package.tgz", "rb"))
    monkeypatch.setattr(LatentDiffusion, "text_to_image", lambda self, texts: torch.zeros(len(texts), 3, 64, 64))
    monkeypatch.chdir(tmp_path)
    run_blocks(PAGES[-1])
    assert read_folder("unseen") == [(Path("unseen/0.png"), "man, no. 0"), (Path("unseen/10.png"), "man, no. 10")]
    assert (Path("people/0-light.png"), "man, no. 0, light skin") in (people := read_folder("people"))
    assert len(people) == 11
    assert capsys.readouterr().out == (    # all are equally near, and the first is the first seen
        "captions seen: 1 of 2 are most like the emoji with this caption\n"
        "captions not seen: 0 of 2 are most like the emoji with this caption\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_lead_somewhere(page):
    text = TEXTS[page]
    assert broken_links(page, text) == [] and unknown_commands(text) == []
    assert re.search(r"-m ldm_edu\.|make \w+", text)


def test_the_targets_of_make_exist():
    assert unknown_commands((ROOT / "Makefile").read_text(encoding="utf-8")) == []


def test_what_leads_nowhere_is_found():
    text = "# A title, here\n[a](#a-title-here) [b](#gone) [c](nowhere.md) [d](https://example.org)\n"
    text += "python -m ldm_edu.nothing; python -m ldm_edu.no.thing; python -m ldm_edu.samplers; "
    text += "python -m ldm_edu.recipes cake; python -m ldm_edu.recipes ldm; python -m ldm_edu.recipes NAME; "
    text += "python -m ldm_edu.studies cake; python -m ldm_edu.studies retrieval; python -m ldm_edu.course.claims"
    assert broken_links(ROOT / "README.md", text) == ["#gone", "nowhere.md"]
    assert unknown_commands(text) == ["ldm_edu.nothing", "ldm_edu.no.thing", "ldm_edu.samplers",
                                      "ldm_edu.recipes cake", "ldm_edu.studies cake"]
