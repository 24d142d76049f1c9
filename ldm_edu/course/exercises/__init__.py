"""`check("01.2", my_q_sample)`: automatic checks of the exercises, which name the likely mistake.

Each chapter has a module `chapter_NN` with a dictionary `EXERCISES`: id -> Exercise.
"""
from __future__ import annotations

import importlib
import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


class Hint(AssertionError):
    """An answer is wrong. A notebook shows the message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:    # IPython calls it
        return [f"Not yet. {self}"]


@dataclass(frozen=True)
class Exercise:
    """The right answer to an exercise, and the wrong ones that have a hint of their own.

    An answer is a function, or a value if there are no `cases`. Values and results are numbers, tensors, arrays,
    booleans, strings, or tuples of these.
    """

    right: Any
    hint: str                                                 # for a wrong answer that is none of the mistakes
    mistakes: dict[str, Any] = field(default_factory=dict)    # hint -> the wrong answer that it is about
    cases: Callable[[], list[tuple]] | None = None            # makes the arguments of each call, always the same
    tolerance: float = 1e-4                                   # share of the largest right value; integers must be equal


def draw(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers for a case."""
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def find(id: str) -> Exercise:
    """Return an exercise by its id. Raises ValueError if there is none."""
    try:
        return importlib.import_module(f"{__name__}.chapter_{str(id)[:2]}").EXERCISES[id]
    except (ModuleNotFoundError, KeyError):
        raise ValueError(f"exercise: got {id!r}, expected the id of an exercise, like '01.2'") from None


def check(id: str, answer: Any) -> None:
    """Print that an answer is right or not attempted yet, or raise `Hint`. Raises ValueError for an unknown id.

    None, `...`, and a function that returns one of them or raises NotImplementedError are not attempted yet. With the
    environment variable LDM_EDU_STRICT=1, for grading, that is a `Hint`, too.
    """
    exercise = find(id)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            attempted = _grade(exercise, answer)
        if not attempted and os.environ.get("LDM_EDU_STRICT") == "1":
            raise Hint("not attempted yet.")
    except Hint as hint:
        raise Hint(f"{id}: {hint}") from None
    print(f"{id}: {'right' if attempted else 'not attempted yet'}")


def _grade(exercise: Exercise, answer: Any) -> bool:
    """Return whether `answer` was attempted. Raises Hint if it is wrong."""
    found = _results(exercise, answer)
    if all(map(_missing, found)):
        return False
    if wrong := _difference(found, _results(exercise, exercise.right), exercise.tolerance):
        for hint, mistake in exercise.mistakes.items():
            if not _difference(found, _results(exercise, mistake), exercise.tolerance):
                raise Hint(hint)
        raise Hint(f"{wrong} {exercise.hint}")
    for arguments in exercise.cases() if exercise.cases else ():
        if (gradients := _gradients(answer, arguments)) is None:
            raise Hint("The values are right, but no gradient passes: .detach(), .item(), no_grad or an index cuts it.")
        if _difference(gradients, _gradients(exercise.right, arguments), 10 * exercise.tolerance):
            raise Hint("The values are right, but their gradient is not. Look at what you detach, and what you do not.")
    return True


def _results(exercise: Exercise, answer: Any) -> tuple:
    """Call `answer` for each case; a value is its own result."""
    if exercise.cases is None or _missing(answer):
        return (answer,)
    if not callable(answer):
        raise Hint(f"Expected a function, got {_kind(answer)}. Pass its name, without calling it.")
    return tuple(_call(answer, arguments) for arguments in exercise.cases())


def _call(answer: Callable, arguments: tuple) -> Any:
    """Call `answer`. Raises Hint if it stops with an error or changes its arguments."""
    before = [a.clone() if isinstance(a, Tensor) else None for a in arguments]
    torch.default_generator.manual_seed(0)    # an answer that draws gives the same in every call
    try:
        result = answer(*arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]    # the first is this function's
        own = [f for f in frames if f.filename == frames[0].filename]    # not torch's, and not the package's
        where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
        raise Hint(f"Your function stops with {type(error).__name__}: {error}{where}") from None
    if not all(was is None or torch.equal(was, now) for was, now in zip(before, arguments)):
        raise Hint("Your function changes its arguments. Make new tensors: x = x + 1, not x += 1.")
    return result


def _gradients(answer: Callable, arguments: tuple) -> tuple[Tensor, ...] | None:
    """Return gradients of the result, weighted at random, for all arguments and weights that require one, or None."""
    parts = [p for a in arguments for p in (a.parameters() if isinstance(a, torch.nn.Module) else [a])]
    wanted = [p for p in parts if isinstance(p, Tensor) and p.requires_grad]
    result = _call(answer, arguments) if wanted else None
    if not wanted or not isinstance(result, Tensor) or not result.requires_grad:
        return None if wanted else ()
    found = torch.autograd.grad((result * draw(0, *result.shape)).sum(), wanted, allow_unused=True)
    return None if any(gradient is None for gradient in found) else found


def _missing(result: Any) -> bool:
    return result is None or result is ...


def _difference(found: Any, right: Any, tolerance: float) -> str:
    """Say how `found` differs from `right`; empty if it does not."""
    if isinstance(right, tuple):
        if not isinstance(found, tuple | list) or len(found) != len(right):
            return f"Expected {len(right)} results, got {_kind(found)}."
        return next(filter(None, (_difference(f, r, tolerance) for f, r in zip(found, right))), "")
    if isinstance(right, str):
        return "" if isinstance(found, str) and found == right else f"Got {found!r}."
    got, expected = _tensor(found), _tensor(right)
    boolean = expected.dtype == torch.bool
    if got is None or got.shape != expected.shape or (got.dtype == torch.bool) != boolean:
        return f"Expected {_kind(right)}, got {_kind(found)}."
    largest = expected.double().nan_to_num(0, 0, 0).abs().max().item() or 1    # mistakes may divide by 0
    allowed = tolerance * largest if expected.is_floating_point() else 0.0
    got, expected = got.double(), expected.double()
    if expected.isfinite().all() and not got.isfinite().all():
        return "The result has values that are infinite or not a number."
    wrong = ~torch.isclose(got, expected, rtol=0, atol=allowed, equal_nan=True)
    if boolean and wrong.any():
        return f"{wrong.sum()} of {wrong.numel()} booleans are wrong."
    return f"The values are off by up to {(got - expected).abs().max():.2g}." if wrong.any() else ""


def _tensor(value: Any) -> Tensor | None:
    """Convert a number, an array, a tensor or a list of numbers to a tensor on the CPU; None for anything else."""
    try:
        tensor = torch.as_tensor(value.copy() if isinstance(value, np.ndarray) else value)    # x[::-1] has bad strides
        return None if tensor.is_complex() else tensor.detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None


def _kind(value: Any) -> str:
    """Say what `value` is."""
    if value is None:
        return "nothing"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if (tensor := _tensor(value)) is None:
        return "a function" if callable(value) else f"a value of type {type(value).__name__}"
    boolean = tensor.dtype == torch.bool
    if not tensor.ndim:
        return "a boolean" if boolean else "a number"
    return f"a {'boolean ' * boolean}tensor of shape {tuple(tensor.shape)}"
