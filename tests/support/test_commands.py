"""Every command line: its help, a sentence for each wrong input, Ctrl-C at any moment, nothing written elsewhere."""
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from runpy import run_module

import pytest

import ldm_edu
from ldm_edu.course.viz import to_pil
from ldm_edu.recipes.__main__ import NAMES
from ldm_edu.recipes.profiles import PROFILES, Profile
from ldm_edu.studies.__main__ import STUDIES
from ldm_edu.support.commands import CommandLine, natural, new_folder, whole
from ldm_edu.tiny_worlds.datasets import TinyWorlds
from ldm_edu.training import TrainConfig

HOUSE = Path(ldm_edu.__file__).parent
COURSE = ("badges", "claims", "readme_figures", "refresh", "release", "sync")
COMMANDS = ["metrics", "doctor", *(f"recipes {name}" for name in NAMES), *(f"studies {name}" for name in STUDIES),
            *(f"course.{name}" for name in COURSE)]
OWN = "pictures --first-steps 2 --batch 2 --steps 2"
every_command = pytest.mark.parametrize("command", COMMANDS)


def call(command: str, *arguments: object) -> None:
    """Run `python -m ldm_edu.command` in this process."""
    module, *name = command.split()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)    # the module is imported already
        patch.setattr(sys, "argv", ["", *name, *map(str, arguments)])
        run_module(f"ldm_edu.{module}", run_name="__main__")


def refusal(capsys, command: str, *arguments: object) -> str:
    """What the command says of wrong arguments: one line, and exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(command, *arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and said.endswith("\n") and len(said) > 20, said
    return said


def pictures_in(folder: Path) -> None:
    """Eight pictures of eight classes."""
    for i in range(8):
        (folder / f"house {i}").mkdir(parents=True)
        to_pil(TinyWorlds("validation", 8)[i].image).save(folder / f"house {i}" / "a.png")


@pytest.fixture
def parser_of(monkeypatch):
    """The parser of a command, which its --help prints."""
    def parser(command: str) -> CommandLine:
        found = []
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(CommandLine, "print_help", lambda self, file=None: found.append(self))
            call(command, "--help")
        assert end.value.code == 0
        return found.pop()
    return parser


# ---- Help ----

def test_no_command_is_forgotten():
    rooms = {path.parent.name for path in HOUSE.glob("*/__main__.py")}
    course = {path.stem for path in HOUSE.glob("course/*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert rooms == {command.split()[0] for command in COMMANDS if "." not in command} and course == {*COURSE}


@every_command
def test_every_option_says_what_it_does_and_what_is_taken_without_it(command, parser_of):
    parser = parser_of(command)
    help = "".join(parser.format_help().split())    # lines are broken within words, too
    assert help.startswith(f"usage:python-mldm_edu.{command.replace(' ', '')}")
    for action in parser._actions:
        assert action.help and len(action.help) > 4 and all(option in help for option in action.option_strings)
        if action.default not in (None, False, "==SUPPRESS=="):
            values = action.default if isinstance(action.default, list) else [action.default]
            assert "".join(f"(default:{''.join(map(str, values))})".split()) in help, action.dest


@pytest.mark.parametrize("name", ["claims", "sync"])
def test_help_does_nothing_else(name, tmp_path):
    """In a process of its own, and from another folder: `sync --help` once wrote to the notebooks."""
    ran = subprocess.run([sys.executable, "-m", f"ldm_edu.course.{name}", "--help"], cwd=tmp_path, check=True,
                         capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(HOUSE.parent)})
    assert ran.stdout.startswith(f"usage: python -m ldm_edu.course.{name} [-h]") and not any(tmp_path.iterdir())


# ---- Wrong input ----

def kind(action) -> object:
    return action.type.func if isinstance(action.type, partial) else action.type


@every_command
def test_wrong_options_are_refused_in_a_line(command, parser_of, capsys, tmp_path):
    """Unknown ones, numbers out of range, and a place for results that is a file or below one."""
    (tmp_path / "file").touch()
    parser = parser_of(command)
    assert "unrecognized arguments: --nonsense" in refusal(capsys, command, *needed(parser), "--nonsense")
    for action in parser._actions:
        option = action.option_strings[-1] if action.option_strings else ""
        if kind(action) is whole:
            for wrong in ("-5", "two", "1.5", *["0"] * (action.type is not natural)):
                said = refusal(capsys, command, *needed(parser, option), option, wrong)
                assert f"argument {option}: got {wrong}, expected a whole number from " in said
        elif kind(action) is float:
            assert f"argument {option}: invalid float" in refusal(capsys, command, *needed(parser), option, "much")
        elif kind(action) is new_folder:
            for wrong in ("file", "file/below"):
                said = refusal(capsys, command, *needed(parser, option), option, tmp_path / wrong)
                assert f"argument {option}: got {tmp_path / wrong}, expected a folder" in said
        elif action.choices:
            assert f"argument {option}: invalid choice" in refusal(capsys, command, *needed(parser), option, "magic")
        else:    # what is read: its tests follow
            assert action.nargs == 0 or action.dest in READ, action.dest


READ = ("checkpoint", "folder", "notebooks", "paths", "repo", "root", "torchvision", "samplers", "help")


def needed(parser: CommandLine, but: str = "") -> list[str]:
    """Arguments that the command cannot do without, except for the option `but`."""
    required = [action for action in parser._actions if action.required and but not in action.option_strings]
    return [word for action in required for word in (*action.option_strings[-1:], "x")]


READERS = ["metrics", "doctor", "recipes own --out x", "studies bench", "studies retrieval", "studies sampler_quality",
           "studies strength", "course.readme_figures --out x", "course.refresh", "course.release --out x"]


@pytest.mark.parametrize("what", ["nowhere", "no such/model", "file", "folder"])
@pytest.mark.parametrize("command", READERS)
def test_what_cannot_be_read_is_named(command, what, capsys, tmp_path, monkeypatch):
    """A folder that is not there, a file in its place, an empty folder; nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no model")
    Path("folder").mkdir()
    command, *options = command.split(" --out ")
    assert what in refusal(capsys, command, what, *(word for each in options for word in ("--out", each)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("command, said", [
    ("metrics data/tiny-worlds --samplers eular", "samplers: got eular, expected some of ddpm, ddim, euler"),
    ("studies", None), ("recipes", None), ("studies gan", "argument NAME: invalid choice: 'gan' (choose from"),
    ("recipes lora", "argument NAME: invalid choice: 'lora' (choose from"), ("metrics", "required: checkpoint"),
    ("recipes ldm", "ldm needs clip/model.safetensors, which is not there"), ("course.badges a_b", "REPO: got 'a_b'"),
    ("studies prompt_following --variants magic", "invalid choice: 'magic'"),
    ("studies gan_versus_diffusion --share nan", "--share: got nan, expected a number above 0"),
])
def test_unknown_names_and_what_is_missing(command, said, capsys, tmp_path, monkeypatch):
    if "data/" not in command:
        monkeypatch.chdir(tmp_path)
    command, *options = command.split(" ")
    if command in ("recipes", "studies") and options:
        command, options = f"{command} {options[0]}", options[1:]
    if said is None:    # the list of names
        with pytest.raises(SystemExit) as end:
            call(command)
        assert end.value.code == 0 and "NAME --help lists the options" in capsys.readouterr().out
    else:
        options += ["--out", "."] if command == "recipes ldm" or "gan_" in command else []
        assert said in refusal(capsys, command, *options)


# ---- Ctrl-C ----

@pytest.fixture
def sigint_is_heard():
    """A shell lets what it runs in the background ignore it, and so all that this starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("moment, command", [
    ("loading PyTorch", "segmenter"), ("scenes:", "segmenter --threads 2"),
    pytest.param("latents:", f"own {OWN}", marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a group of processes")
def test_ctrl_c_is_a_sentence_at_any_moment(moment, command, tmp_path, sigint_is_heard):
    """To the whole group, as a terminal sends it: while PyTorch is imported, processes paint, a network learns."""
    pictures_in(tmp_path / "pictures")
    process = subprocess.Popen([sys.executable, "-m", "ldm_edu.recipes", *command.split(), "--out", "out"],
                               cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True,
                               env=os.environ | {"PYTHONPATH": str(HOUSE.parent)})
    said = b""
    try:
        while moment.encode() not in said:
            assert (more := os.read(process.stderr.fileno(), 10_000)), said.decode()
            said += more
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "\nStopped: the same command with --resume goes on from the last saved step.\n" in said


def test_what_ctrl_c_interrupts_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    for command, said in (("first_stage", "goes on after the last finished training"), ("bench", "from the beginning")):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(import_module(f"ldm_edu.studies.{command}"), "run", interrupted)
            call(f"studies {command}")
        assert end.value.code == 130 and f"Stopped: the same command {said}" in capsys.readouterr().err.replace(
            "starts ", "")


# ---- Where results go ----

def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("command", ["recipes segmenter", "studies pixel_unet --steps 1",
                                     pytest.param(f"recipes own {OWN}", marks=pytest.mark.slow)])
def test_everything_that_is_written_lies_in_out(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROFILES, "cpu", {"segmenter": Profile(TrainConfig(1), batch=2, scenes=6)})
    pictures_in(tmp_path / "pictures")
    before, shipped = everything(tmp_path), everything(HOUSE.parent / "data")
    room, name, *options = command.split()
    call(f"{room} {name}", *options, "--out", "deep/out")
    new = everything(tmp_path).keys() - before.keys()
    assert any(path.endswith(".csv") or path.endswith(".safetensors") for path in new)
    assert all(path.startswith(str(tmp_path / "deep")) for path in new)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert everything(HOUSE.parent / "data") == shipped
