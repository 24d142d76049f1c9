"""`%load_ext ldm_edu.course.live` in a real kernel: the package obeys what a cell redefines."""
import ast

import pytest

from ldm_edu.course.sync import package

PACKAGE = package()
SETUP = """\
%load_ext ldm_edu.course.live
from types import SimpleNamespace
import torch
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, ddim
from ldm_edu.schedule import Schedule, scaled_linear_schedule, timesteps
schedule = scaled_linear_schedule()
x = torch.ones(1, 1)

class Network:
    config, factor = SimpleNamespace(sample_size=2, in_channels=4), 8
    def __call__(self, x, *context): return x

class Text(torch.nn.Linear):
    def forward(self, prompts): return torch.zeros(len(prompts), 3, 5)

ldm = LatentDiffusion(Network(), Network(), Text(1, 1), schedule)
def levels():
    return [step.t for step in ldm.denoise("a cat", steps=2)]
"""


@pytest.fixture
def kernel(running):
    """A kernel with a fresh package."""
    running("%reset -f")
    running("%unload_ext ldm_edu.course.live")
    assert running(SETUP, "print(levels(), schedule.T)") == "[501, 1] 1000\n"
    return running


def edited(name: str, *lines: str) -> str:
    """The package's source of a function, or of a method with its whole class, with `lines` put first."""
    owner = name.split(".")[0]
    source = PACKAGE[owner].source.split("\n")
    node = next(n for n in ast.walk(ast.parse(PACKAGE[owner].source))
                if isinstance(n, ast.FunctionDef) and n.name == name.split(".")[-1])
    first = node.body[bool(ast.get_docstring(node))]
    source[first.lineno - 1:first.lineno - 1] = [" " * first.col_offset + line for line in lines]
    return "\n".join(source)


SHIFTED = edited("timesteps", "return torch.tensor([7, 3])[:steps]")
SAYS = "live: timesteps replaces ldm_edu.schedule.timesteps until the kernel restarts\n"


def test_an_edited_function_changes_what_its_callers_in_the_package_do(kernel):
    assert kernel("held = [timesteps]", SHIFTED, "print(levels())") == SAYS + "[7, 3]\n"  # within one cell
    assert kernel("print(levels(), held[0](1).tolist(), timesteps is held[0])") == "[7, 3] [7] True\n"


def test_what_equals_the_package_prints_nothing_and_undoes_an_edit(kernel):
    for name in ("timesteps", "ddim", "Schedule", "Step", "ResBlock"):
        assert kernel(PACKAGE[name].source) == ""
    assert kernel(edited("timesteps", "# a comment is no difference")) == ""
    assert kernel("from ldm_edu.samplers import Step as original", PACKAGE["Step"].source,
                  "print(Step is original)") == "True\n"
    kernel(SHIFTED)
    assert kernel(PACKAGE["timesteps"].source) == "live: timesteps is ldm_edu.schedule.timesteps again\n"
    assert kernel("print(levels())") == "[501, 1]\n"


def test_an_edited_method_works_on_instances_old_and_new(kernel):
    source = edited("Schedule.sigma", "return 501") + "\n\n    def extra(self): return 1"
    assert kernel(source, "new = scaled_linear_schedule()",
                  "print(schedule.sigma, new.sigma, new.extra(), type(new) is type(schedule) is Schedule)") == \
        "live: Schedule replaces ldm_edu.schedule.Schedule until the kernel restarts\n501 501 1 True\n"
    assert kernel("import pickle", "print(pickle.loads(pickle.dumps(schedule)).sigma)") == "501\n"
    assert kernel("new.unknown = 3").startswith("FrozenInstanceError")
    kernel(PACKAGE["Schedule"].source)
    assert kernel("print(len(new.sigma), hasattr(new, 'extra'))") == "1000 False\n"


def test_an_edited_layer_keeps_its_super_and_its_weights(kernel):
    source = PACKAGE["Downsample"].source + "\n    def extra_repr(self): return super().extra_repr() + 'new'"
    assert kernel("from ldm_edu import unet", "old = unet.Downsample(4)", source,
                  "print('new' in repr(old), 'new' in repr(unet.Downsample(4)), len(old.state_dict()))"
                  ).endswith("\nTrue True 2\n")


def test_an_edit_takes_effect_in_the_pipeline_and_among_the_samplers(kernel):
    drawn = "print(bool(list(ldm.denoise('a cat', steps=1, sampler='euler'))[0].x0.any()))"
    assert kernel(drawn) == "True\n"
    assert kernel(edited("start_from", "return torch.zeros_like(noise)"), drawn).endswith("\nFalse\n")
    kernel(PACKAGE["start_from"].source)
    backwards = edited("ddim", "yield Step(-1, x, x, x)")
    assert kernel(backwards, "first = next(SAMPLERS['ddim'](None, x, schedule, timesteps(1)))",
                  "print(levels(), first.t, SAMPLERS['ddim'] is ddim)").endswith("\n[-1, 501, 1] -1 True\n")
    kernel(PACKAGE["ddim"].source)
    silent = edited("guided", "return lambda x, t: torch.zeros_like(x)")
    assert kernel(silent, "print(bool(list(ldm.denoise('a cat', steps=1))[0].eps.any()))").endswith("\nFalse\n")


def test_a_field_more_in_a_dataclass(kernel):
    kernel("from ldm_edu.samplers import Step", "from ldm_edu.training import TrainConfig", "old = Step(1, x, x, x)")
    one = ["step, = SAMPLERS['ddim'](lambda x, t: x, x, schedule, timesteps(1))",
           "print(len(vars(step)), old.t, type(step) is Step)"]
    assert kernel(PACKAGE["Step"].source + "\n    note: str = 'mine'", *one, "print(step.note)"
                  ).endswith("\n5 1 True\nmine\n")
    assert kernel(PACKAGE["Step"].source, *one).endswith("again\n4 1 True\n")
    faster = PACKAGE["TrainConfig"].source.replace("lr: float = 1e-3", "lr: float = 0.5")
    assert kernel(faster, "print(TrainConfig(10).lr)").endswith("\n0.5\n")


def test_decorators_come_and_go(kernel):
    gradient = ["x.requires_grad_()", "step, = SAMPLERS['ddim'](lambda x, t: x, x, schedule, timesteps(1))",
                "print(step.x.requires_grad)"]
    decorated = PACKAGE["ddim"].source
    assert decorated.startswith("@torch.no_grad()\ndef ")
    assert kernel(*gradient) == "False\n"
    assert kernel(decorated.partition("\n")[2], *gradient).endswith("restarts\nTrue\n")
    assert kernel(decorated, *gradient).endswith("again\nFalse\n")
    assert kernel("def rising(f): return lambda *args: f(*args).flip(0)",
                  "@rising", PACKAGE["timesteps"].source, "print(levels())") == SAYS + "[1, 501]\n"


def test_a_cached_function_forgets(kernel):
    width = ["from ldm_edu.tiny_worlds.landscapes import gradient", "print(gradient((0, 0, 0), (9, 9, 9), 1, 1).size)"]
    assert kernel(*width) == "(1, 1)\n"
    assert kernel(edited("gradient", "width += 1"), *width).endswith("\n(2, 1)\n")


def test_an_edit_sees_the_notebook_as_it_is_when_called(kernel):
    source = edited("timesteps", "seen.append(int(np.pi))")  # the module has np, the notebook seen
    assert kernel("seen, np = [], 'mine'", source, "levels(); print(seen)") == SAYS + "[3]\n"
    assert kernel("seen = []", "levels(); levels(); print(seen)") == "[3, 3]\n"
    assert kernel("del seen", "levels()") == "NameError: name 'seen' is not defined"


def test_a_definition_that_fails_changes_nothing(kernel):
    assert kernel("def timesteps(:").startswith("SyntaxError")
    assert kernel("def timesteps(steps, T=1 / 0): ...").startswith("ZeroDivisionError")
    assert kernel("class Schedule:", "    T = undefined").startswith("NameError: name 'undefined'")
    assert kernel("class timesteps: ...") == \
        "TypeError: timesteps: got a type, expected a function as in ldm_edu.schedule"
    assert kernel("print(levels(), schedule.T, timesteps(1).tolist())") == "[501, 1] 1000 [1]\n"


def test_an_error_names_the_line_of_the_cell(kernel):
    kernel("1", edited("timesteps", "1 / 0"))
    assert kernel("import traceback", "try: levels()", "except ZeroDivisionError as error:",
                  "    print(traceback.extract_tb(error.__traceback__)[-1].line)") == "1 / 0\n"


def test_other_names_are_the_notebooks_own(kernel):
    assert kernel("def ddim_naive(): return 1", "class Mine: pass", "timesteps = 3",
                  "def outer():", "    def timesteps(*a): return None",
                  "outer()", "print(levels())") == "[501, 1]\n"


def test_unloading_restores_the_package(kernel):
    kernel(SHIFTED)
    assert kernel("%unload_ext ldm_edu.course.live", "print(levels())") == "[501, 1]\n"
    assert kernel("def timesteps(*a): return None", "print(levels())") == "[501, 1]\n"
