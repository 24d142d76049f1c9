"""Exercises of chapter 11: two steps by hand, the noise that leads to a target, halving the steps, guidance in one."""
import torch
from torch import nn

from . import Exercise, draw

EXERCISES = {}


# --- 11.1: two steps by hand
def _two_steps(x, m):
    return torch.tanh(x * (m / (1 - m)) ** 0.5)


EXERCISES["11.1"] = Exercise(
    right=_two_steps,
    cases=lambda: [(2 * draw(s, 6), m) for s, m in ((0, 0.5), (1, 0.9), (2, 0.2), (3, 0.0), (4, 0.99))],
    hint="First step: the guess is 0, so all of x is noise, and it lands at √(1 - m) x. Second step: it lands at the "
         "guess there, tanh(√m x' / (1 - m)).",
    mistakes={
        "You stay at x in the first step. It leads to level m, where the noise has shrunk to √(1 - m) x.":
            lambda x, m: torch.tanh(m**0.5 * x / (1 - m)),
        "That is where the first step lands. Take the second one, too.": lambda x, m: (1 - m) ** 0.5 * x,
        "That is where one step would land. With two, the second guess knows something.": lambda x, m: 0 * x,
        "You choose the nearer point. The guess is a mean of both, weighted by how likely they are.":
            lambda x, m: x.sign(),
        "You forget to divide by the variance 1 - m.": lambda x, m: torch.tanh((m * (1 - m)) ** 0.5 * x),
        "m and 1 - m are swapped. At m = 0 nothing is known at the second step either.":
            lambda x, m: torch.tanh(x * ((1 - m) / (m + 1e-6)) ** 0.5),
        "You take m and 1 - m. The factors are their roots.": lambda x, m: torch.tanh(x * m / (1 - m)),
        "You forget that at the second level the point itself is scaled, by √m.":
            lambda x, m: torch.tanh(x / (1 - m) ** 0.5),
        "You end at level m. The second step ends at clean data.":
            lambda x, m: m**0.5 * _two_steps(x, m) + (1 - m) ** 0.5 * x})


# --- 11.2: the noise that leads to a target
def _levels(a, b, x):
    return (level.view(-1, *[1] * (x.ndim - 1)) for level in (a, b))


def _step(x, eps, a, b):
    a, b = _levels(a, b, x)
    return b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps


def _C(a, b):
    return (1 - b).sqrt() - (b * (1 - a) / a).sqrt()


def _solved(x, goal, a, b, A=None, C=_C):
    a, b = _levels(a, b, x)
    return (goal - ((b / a).sqrt() if A is None else A) * x) / C(a, b)


def _needed_cases():
    cases = [(draw(s, 2, *shape), draw(s + 1, 2, *shape), torch.tensor(a), torch.tensor(b)) for s, shape, a, b in (
        (0, (4, 3, 3), (0.0047, 0.07), (0.3, 0.8)), (2, (2,), (0.5, 0.0047), (1.0, 0.9991)), (4, (5,), (0.2, 0.6),
                                                                                        (0.25, 0.9)))]
    return [(x.requires_grad_(s == 1), goal.requires_grad_(s == 1), a, b) for s, (x, goal, a, b) in enumerate(cases)]


EXERCISES["11.2"] = Exercise(
    right=_solved,
    cases=_needed_cases,
    hint="Write the step as A x + C eps with A = √(ᾱ'/ᾱ) and C = √(1 - ᾱ') - √(ᾱ' (1 - ᾱ) / ᾱ), and solve for eps.",
    mistakes={
        "You take the goal for clean data. It still has the noise of the next level.":
            lambda x, goal, a, b: (x - next(_levels(a, b, x)).sqrt() * goal) / (1 - next(_levels(a, b, x))).sqrt(),
        "You swap the two levels.": lambda x, goal, a, b: _solved(x, goal, b, a),
        "The sign is wrong: eps = (goal - A x) / C.": lambda x, goal, a, b: -_solved(x, goal, a, b),
        "You subtract x, not A x: even without noise the step scales x.":
            lambda x, goal, a, b: _solved(x, goal, a, b, A=1.0),
        "You forget the noise that the step puts back, √(1 - ᾱ') eps.":
            lambda *args: _solved(*args, C=lambda a, b: -(b * (1 - a) / a).sqrt()),
        "You forget the noise that the step takes away with x_0.":
            lambda *args: _solved(*args, C=lambda a, b: (1 - b).sqrt() + 1e-9),
        "In C the second root lacks its division by ᾱ.":
            lambda *args: _solved(*args, C=lambda a, b: (1 - b).sqrt() - (b * (1 - a)).sqrt()),
        "You divide by √(1 - ᾱ') - √(1 - ᾱ). The second root must be scaled by √(ᾱ'/ᾱ), as x is.":
            lambda *args: _solved(*args, C=lambda a, b: (1 - b).sqrt() - (1 - a).sqrt()),
        "You multiply by C. Divide.": lambda *args: _solved(*args, C=lambda a, b: 1 / _C(a, b))})


# --- 11.3: two steps of a teacher in one of the student
class _Net(nn.Module):
    """A small noise predictor of x (B, D) at a level (B,)."""

    def __init__(self, seed, learns=True):
        super().__init__()
        self.weight, self.shift = nn.Parameter(draw(seed, 3, 3) / 2), nn.Parameter(draw(seed + 1, 3))
        self.requires_grad_(learns)

    def forward(self, x, alpha_bar):
        return torch.tanh(x @ self.weight + self.shift * alpha_bar[:, None])


def _halving(student, teacher, x, a, m, b):
    with torch.no_grad():
        half = _step(x, teacher(x, a), a, m)
        goal = _step(half, teacher(half, m), m, b)
    return (_step(x, student(x, a), a, b) - goal).square().mean()


def _halving_cases():
    levels = [torch.tensor(row) for row in ((0.2, 0.1, 0.4), (0.5, 0.3, 0.7), (0.9, 0.6, 1.0))]
    one = _Net(9)
    return [(_Net(0), _Net(2, learns=False), draw(4, 3, 3), *levels), (one, one, draw(5, 3, 3), *levels),
            (_Net(6, learns=False), _Net(7, learns=False), draw(8, 3, 3), *levels)]


EXERCISES["11.3"] = Exercise(
    right=_halving,
    cases=_halving_cases,
    hint="goal: from x with the teacher's eps to m, from there with its new eps to b, without gradient. Then the "
         "student's one step from x to b, and the mean square of the difference.",
    mistakes={
        "Your teacher looks at the right point, but at the level where it began.":
            lambda s, t, x, a, m, b: (_step(x, s(x, a), a, b) - _step(
                half := _step(x, t(x, a), a, m), t(half, a), m, b).detach()).square().mean(),
        "Your teacher looks at level m, but at the point where it began.":
            lambda s, t, x, a, m, b: (_step(x, s(x, a), a, b) - _step(
                _step(x, t(x, a), a, m), t(x, m), m, b).detach()).square().mean(),
        "Your goal is the teacher's first step. Let it take two.":
            lambda s, t, x, a, m, b: (_step(x, s(x, a), a, b) - _step(x, t(x, a), a, m).detach()).square().mean(),
        "Your teacher takes one long step (two with the same eps are one). It must look again at m, where it now is.":
            lambda s, t, x, a, m, b: (_step(x, s(x, a), a, b) - _step(x, t(x, a), a, b).detach()).square().mean(),
        "Your student goes to m only. Its one step is as long as two of the teacher's.":
            lambda s, t, x, a, m, b: (_step(x, s(x, a), a, m) - _step(
                half := _step(x, t(x, a), a, m), t(half, m), m, b).detach()).square().mean(),
        "You compare two noises: the teacher's two steps are made with two, so no single one of them is right.":
            lambda s, t, x, a, m, b: (s(x, a) - t(x, a).detach()).square().mean(),
        "You add up the squares. Average them, or the loss grows with the batch.":
            lambda *args: 9 * _halving(*args)})


# --- 11.4: guidance in one call, without bugs
def _distilled_guidance(student, teacher, z_t, t, cond, uncond, scale):
    with torch.no_grad():
        e_uncond, e_cond = teacher(z_t, t, uncond), teacher(z_t, t, cond)
        goal = e_uncond + scale * (e_cond - e_uncond)
    return (student(z_t, t, cond) - goal).square().mean()


class _Told(nn.Module):
    """A small noise predictor of z_t (B, 3) that is told t (B,) and a context (B, 2, 3)."""

    def __init__(self, seed, learns=True):
        super().__init__()
        self.weight, self.shift = nn.Parameter(draw(seed, 3, 3) / 2), nn.Parameter(draw(seed + 1, 3))
        self.requires_grad_(learns)

    def forward(self, z, t, context):
        return torch.tanh(z @ self.weight + self.shift * t[:, None] / 1000 + context.mean(1))


def _guidance_cases():
    one, z, t = _Told(9), draw(4, 4, 3), torch.tensor([0, 400, 750, 999])
    cond, uncond = draw(5, 4, 2, 3), draw(6, 1, 2, 3).expand(4, -1, -1)
    return [(_Told(0), _Told(2, learns=False), z, t, cond, uncond, 4.0), (one, one, z, t, cond, uncond, 4.0),
            (_Told(0), _Told(2, learns=False), z, t, cond, uncond, 1.0),
            (_Told(7, learns=False), _Told(8, learns=False), z, t, cond, uncond, 0.0)]


def _bent(student, teacher, z_t, t, cond, uncond, scale, goal):
    e_u, e_c = (teacher(z_t, t, context).detach() for context in (uncond, cond))
    return (student(z_t, t, cond) - goal(e_u, e_c, scale)).square().mean()


EXERCISES["11.4"] = Exercise(
    right=_distilled_guidance,
    cases=_guidance_cases,
    hint="Three bugs: who makes the goal, the formula of guidance, and what the student is told. And no gradient may "
         "pass through the goal.",
    mistakes={
        "The goal is still made by the student: it chases its own tail. The frozen teacher makes it.":
            lambda s, t_, z, t, c, u, w: _bent(s, s, z, t, c, u, w, lambda e_u, e_c, w: e_u + w * (e_c - e_u)),
        "The formula starts from e_cond: at scale 1 the goal would not be the plain conditional prediction.":
            lambda *args: _bent(*args, goal=lambda e_u, e_c, w: e_c + w * (e_c - e_u)),
        "The two predictions are swapped: you lead away from the prompt.":
            lambda *args: _bent(*args, goal=lambda e_u, e_c, w: e_c + w * (e_u - e_c)),
        "The student is still told nothing of the prompt. It gets `cond`.":
            lambda s, t_, z, t, c, u, w: (s(z, t, u) - (
                (e_u := t_(z, t, u).detach()) + w * (t_(z, t, c).detach() - e_u))).square().mean(),
        "You have not mended the goal, which must have `scale` in it: yours is the plain conditional prediction.":
            lambda *args: _bent(*args, goal=lambda e_u, e_c, w: e_c),
        "You forget e_uncond in the goal: guidance starts there.":
            lambda *args: _bent(*args, goal=lambda e_u, e_c, w: w * (e_c - e_u)),
        "You guide the student, too. It learns to need one call, so it is called once.":
            lambda s, t_, z, t, c, u, w: (s(z, t, u) + w * (s(z, t, c) - s(z, t, u)) - (
                (e_u := t_(z, t, u).detach()) + w * (t_(z, t, c).detach() - e_u))).square().mean(),
        "You take the absolute difference. Square it, or the student learns a median and not the goal.":
            lambda s, t_, z, t, c, u, w: (s(z, t, c) - (
                (e_u := t_(z, t, u).detach()) + w * (t_(z, t, c).detach() - e_u))).abs().mean(),
        "You add up the squares. Average them.": lambda *args: 12 * _distilled_guidance(*args)})
