"""`check("01.2", my_q_sample)`: the exercises' automatic checks, which name the likely mistake.

An exercise says how to call an answer, what is right, and what the answers look like that are wrong in a known
way, each with its hint. One module a chapter, `chapter_01` and so on, with a dictionary `EXERCISES`. Nothing in
the package depends on them, and the tests plant wrong answers to see that each check fails with the hint it should.
"""
from __future__ import annotations

import importlib
import os
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Hint(AssertionError):
    """An answer is not right yet. A notebook shows the hint alone, without a traceback through this package."""

    def _render_traceback_(self) -> list[str]:    # IPython asks for it
        return [f"Not yet. {self}"]


@dataclass(frozen=True)
class Exercise:
    """What is asked, what is right and what is wrong in a known way.

    right: the right answer: a function, or a value if a value is asked for. Values, and results of functions, are
        numbers, tensors, arrays, truth values, texts, or tuples of these.
    hint: what to say when the answer is wrong and no known mistake fits.
    mistakes: hint -> what an answer looks like that makes this mistake: like `right`, a function or a value.
    cases: for functions, the argument tuples to call the answer with; made anew for every call, always the same. By
        tensors among them that require a gradient the result must be differentiable.
    tolerance: largest difference allowed, relative to the largest right value; integers must be equal.
    """

    right: Any
    hint: str
    mistakes: dict[str, Any] = field(default_factory=dict)
    cases: Callable[[], list[tuple]] | None = None
    tolerance: float = 1e-4


def find(id: str) -> Exercise:
    """The exercise "01.2": the second of chapter 01. Raises ValueError if there is none."""
    chapter = re.fullmatch(r"(\d\d)\.\d+", id if isinstance(id, str) else "")
    if not chapter:
        raise ValueError(f"exercise: got {id!r}, expected an id like '01.2'")
    name = f"{__name__}.chapter_{chapter[1]}"
    try:
        exercises = importlib.import_module(name).EXERCISES
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        exercises = {}
    if id not in exercises:
        raise ValueError(f"exercise: got {id!r}, chapter {chapter[1]} has {', '.join(exercises) or 'none'}")
    return exercises[id]


def check(id: str, answer: Any) -> None:
    """Print whether `answer`, a function or a value, solves the exercise `id`; raise `Hint` if it does not.

    An answer that is None or ..., and a function that returns that or raises NotImplementedError, is not attempted
    yet: that is said, and nothing else happens, unless the environment variable LDM_EDU_STRICT is 1, as when an
    instructor grades. Random numbers are what they were afterwards. ValueError: no such exercise.
    """
    exercise = find(id)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            attempted = _judge(exercise, answer)
        if not attempted and os.environ.get("LDM_EDU_STRICT") == "1":
            raise Hint("not attempted yet.")
    except Hint as hint:
        raise Hint(f"{id}: {hint}") from None
    print(f"{id}: {'right' if attempted else 'not attempted yet'}")


def _judge(exercise: Exercise, answer: Any) -> bool:
    """Whether `answer` was attempted, if it is not wrong; then raises Hint."""
    found = _results(exercise, answer)
    if all(map(_missing, found)):
        return False

    def problem(expected: Any) -> str:
        """In words, the first difference from what `expected` gives; empty if there is none."""
        pairs = zip(found, _results(exercise, expected))
        return next(filter(None, (_difference(f, e, exercise.tolerance) for f, e in pairs)), "")

    if wrong := problem(exercise.right):
        known = (hint for hint, mistake in exercise.mistakes.items() if not problem(mistake))
        raise Hint(next(known, f"{wrong} {exercise.hint}"))
    if exercise.cases is not None and not all(_passes_gradients(answer, arguments) for arguments in exercise.cases()):
        raise Hint("The values are right, but no gradient passes: compute the result from the arguments, by what torch "
                   "can differentiate, without .detach(), .item() or no_grad.")
    return True


def _passes_gradients(answer: Callable, arguments: tuple) -> bool:
    """Whether the result's sum has a derivative by each of the arguments that require one."""
    asked = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    if not asked:
        return True
    result = _call(answer, arguments)
    if not isinstance(result, Tensor) or not result.requires_grad:
        return False
    return all(g is not None for g in torch.autograd.grad(result.sum(), asked, allow_unused=True))


def _results(exercise: Exercise, answer: Any) -> list:
    """What `answer` gives in each case; a value is its own result."""
    if exercise.cases is None or _missing(answer):
        return [answer]
    if not callable(answer):
        raise Hint(f"Expected a function, got {_kind(answer)}. Pass its name, without calling it.")
    return [_call(answer, arguments) for arguments in exercise.cases()]


def _call(answer: Callable, arguments: tuple) -> Any:
    """answer(*arguments); what goes wrong in there, or happens to the arguments, becomes a hint."""
    before = [a.clone() if isinstance(a, Tensor) else None for a in arguments]
    torch.default_generator.manual_seed(0)    # an answer that draws gives the same in every call
    try:
        result = answer(*arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]    # the first is this function's
        theirs = [f for f in frames if f.filename == frames[0].filename]    # not those of torch and the package
        where = f" (line {theirs[-1].lineno}: {theirs[-1].line})".replace(": )", ")") if theirs else ""
        raise Hint(f"Your function stops with {type(error).__name__}: {error}{where}") from None
    if not all(was is None or torch.equal(was, now) for was, now in zip(before, arguments)):
        raise Hint("Your function changes its arguments. Make new tensors: x = x + 1, not x += 1.")
    return result


def _missing(result: Any) -> bool:
    return result is None or result is ...


def _difference(found: Any, right: Any, tolerance: float) -> str:
    """In words, how `found` differs from `right`; empty if it does not."""
    if isinstance(right, tuple):
        if not isinstance(found, tuple | list) or len(found) != len(right):
            return f"Expected {len(right)} results, got {_kind(found)}."
        return next(filter(None, (_difference(f, r, tolerance) for f, r in zip(found, right))), "")
    if isinstance(right, str):
        return "" if isinstance(found, str) and found == right else f"Got {found!r}."
    got, expected = _tensor(found), _tensor(right)
    truth = expected.dtype == torch.bool
    if got is None or got.shape != expected.shape or (got.dtype == torch.bool) != truth:
        return f"Expected {_kind(right)}, got {_kind(found)}."
    exact, got, expected = not expected.is_floating_point(), got.double(), expected.double()
    finite = expected.isfinite()
    if finite.all() and not got.isfinite().all():
        return "The result has values that are infinite or not a number."
    allowed = 0.0 if exact else tolerance * (max(expected[finite].abs().tolist(), default=0) or 1)
    wrong = ~torch.isclose(got, expected, rtol=0, atol=allowed, equal_nan=True)
    if truth and wrong.any():
        return f"{wrong.sum()} of {wrong.numel()} truth values are wrong."
    return f"The values are off by up to {(got - expected).abs().max():.2g}." if wrong.any() else ""


def _tensor(value: Any) -> Tensor | None:
    """A number, array, tensor or list of numbers as a tensor on the CPU; None if it is none of these."""
    try:
        tensor = torch.as_tensor(value.copy() if isinstance(value, np.ndarray) else value)    # x[::-1] has bad strides
        return None if tensor.is_complex() else tensor.detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None


def _kind(value: Any) -> str:
    """What `value` is, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if (tensor := _tensor(value)) is None:
        return "a function" if callable(value) else f"a value of type {type(value).__name__}"
    truth = tensor.dtype == torch.bool
    if not tensor.ndim:
        return "a truth value" if truth else "a number"
    return f"a tensor of shape {tuple(tensor.shape)}" + " of truth values" * truth
