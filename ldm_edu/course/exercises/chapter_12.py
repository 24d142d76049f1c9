"""Exercises of chapter 12: the mean velocity of a data set, a noise network's flow loss, unpatchify, adaLN-Zero."""
import torch
import torch.nn.functional as F
from torch import nn

from . import Exercise, draw

EXERCISES = {}


# --- 12.1: the mean velocity of all lines through a point
def _velocity(signal=lambda t: 1 - t, spread=lambda t: 2 * t**2, answer=lambda z, x_0, t: (z - x_0) / t):
    """Points are weighted by the density of the noise, then averaged; with some of it changed."""
    def velocity(z, t, data):
        apart = (z[:, None] - signal(t) * data).square().sum(2)
        return answer(z, (-apart / spread(t)).softmax(1) @ data, t)
    return velocity


def _nearest(z, t, data):
    return (z - data[torch.cdist(z, (1 - t) * data).argmin(1)]) / t


def _unequal(z, t, data):
    apart = (z[:, None] - (1 - t) * data).square().sum(2)
    return (z - ((-apart / (2 * t**2)).exp() @ data)) / t


EXERCISES["12.1"] = Exercise(
    right=_velocity(),
    cases=lambda: [(draw(0, 5, 2), 0.7, 2 * draw(1, 7, 2)), (draw(2, 4, 1), 1.0, draw(3, 3, 1)),
                   (draw(4, 6, 3), 0.3, draw(5, 9, 3)), (draw(6, 3, 2), 0.05, draw(7, 8, 2))],
    hint="A line through z from the point x carries the noise (z - (1 - t) x) / t. Weight x by the density of that.",
    mistakes={
        "Around which point is z scattered? A point counts for (1 - t) of itself at time t.":
            _velocity(signal=lambda t: 1.0),
        "The weights do not depend on t in your answer. The noise has standard deviation t.":
            _velocity(spread=lambda t: 2.0),
        "A normal density has -|noise|² / 2 in its exponent: the factor 2 is missing.":
            _velocity(spread=lambda t: t**2),
        "The noise has standard deviation t, so its variance is t².": _velocity(spread=lambda t: 2 * t),
        "You give the mean of the data. The velocity is eps - z_0.": _velocity(answer=lambda z, x_0, t: x_0),
        "The velocity points from data to noise: it is eps - z_0.": _velocity(answer=lambda z, x_0, t: (x_0 - z) / t),
        "z is not the noise: it is (1 - t) z_0 + t eps. Solve that for eps.":
            _velocity(answer=lambda z, x_0, t: z - x_0),
        "That is the mean noise. The velocity is eps - z_0.":
            _velocity(answer=lambda z, x_0, t: (z - (1 - t) * x_0) / t),
        "Every point of the data has a line through z, so all count, not the nearest alone.": _nearest,
        "All points count alike in your answer. Those near z are likelier.":
            lambda z, t, data: (z - data.mean(0)) / t,
        "Your weights do not add up to 1.": _unequal})


# --- 12.2: the flow loss of a network that predicts noise
def _loss(weight, error=lambda eps_hat, z_0, eps, t: eps_hat - eps):
    return lambda eps_hat, z_0, eps, t: error(eps_hat, z_0, eps, t).square().mean((1, 2, 3)) * weight(t)


def _loss_cases():
    times = torch.tensor([0.0, 0.25, 0.5, 0.95])
    return [(draw(0, 4, 4, 8, 8).requires_grad_(), draw(1, 4, 4, 8, 8), draw(2, 4, 4, 8, 8), times),
            (draw(3, 2, 4, 2, 3), 2 * draw(4, 2, 4, 2, 3), draw(5, 2, 4, 2, 3), times[1:3])]


EXERCISES["12.2"] = Exercise(
    right=_loss(lambda t: (1 - t) ** -2),
    cases=_loss_cases,
    hint="From z_t and eps_hat follow z_0, and v = eps_hat - z_0. Subtract eps - z_0 and simplify.",
    mistakes={
        "That is the noise loss. An error in the noise implies one in z_0, too, and v has both.": _loss(lambda t: 1.0),
        "Square the factor, too: the error is 1 / (1 - t) as large in v, its square 1 / (1 - t)².":
            _loss(lambda t: 1 / (1 - t)),
        "Upside down: the smaller the share of the data, the more an error in the noise matters to it.":
            _loss(lambda t: (1 - t) ** 2),
        "That is the factor for an error in z_0, which is t times the one in v. Ask for one in eps.":
            _loss(lambda t: t**-2),
        "That is the error in z_0 that an error in eps implies. The velocity is eps - z_0.":
            _loss(lambda t: (t / (1 - t)) ** 2),
        "Only the predicted noise is new; the implied z_0 must be predicted as well, from z_t and eps_hat.":
            _loss(lambda t: 1.0, lambda eps_hat, z_0, eps, t: eps_hat - z_0 - eps),
        "You take the network's output for a velocity. It is a noise.":
            _loss(lambda t: 1.0, lambda eps_hat, z_0, eps, t: eps_hat - (eps - z_0)),
        "Average over the numbers of a latent; you add them.":
            lambda eps_hat, z_0, eps, t: (eps_hat - eps).square().sum((1, 2, 3)) / (1 - t) ** 2})


# --- 12.3: tokens -> latent
def _unpatchify(order=(0, 3, 1, 4, 2, 5), last=lambda tokens, p: tokens.unflatten(3, (-1, p, p))):
    """From (B, h/p, w/p, C, p, p) to (B, C, h/p, p, w/p, p), in some other order or from another split."""
    def answer(tokens, height, width, p):
        parts = last(tokens.unflatten(1, (height // p, width // p)), p).permute(order)
        return parts.reshape(len(tokens), -1, height, width)
    return answer


EXERCISES["12.3"] = Exercise(
    right=_unpatchify(),
    cases=lambda: [(draw(0, 2, 16, 16).requires_grad_(), 8, 8, 2), (draw(1, 1, 6, 12), 6, 4, 2),
                   (draw(2, 3, 8, 27), 6, 12, 3), (draw(3, 2, 15, 4), 3, 5, 1)],
    hint="Split the tokens into rows and columns of patches, each token into C, p, p; reorder to B, C, h/p, p, w/p, p.",
    mistakes={
        "A bare reshape leaves the numbers in their order. In the latent a row of pixels runs through many tokens.":
            lambda tokens, height, width, p: tokens.reshape(len(tokens), -1, height, width),
        "The patches lie column by column. `patchify` goes row by row.":
            lambda tokens, height, width, p: _unpatchify((0, 3, 1, 4, 2, 5))(
                tokens.unflatten(1, (width // p, height // p)).transpose(1, 2).flatten(1, 2), height, width, p),
        "Each patch is transposed: the rows of its pixels come before the columns.": _unpatchify((0, 3, 1, 5, 2, 4)),
        "In a token the channels come first, then the pixels of each: C, p, p.":
            _unpatchify((0, 5, 1, 3, 2, 4), lambda tokens, p: tokens.unflatten(3, (p, p, -1))),
        "Transposing first makes the channels of the tokens those of the latent, but there are C p² of them.":
            lambda tokens, height, width, p: tokens.transpose(1, 2).reshape(len(tokens), -1, height, width),
        "You put the parts in the order B, C, h/p, w/p, p, p. Rows of pixels belong beside rows of patches.":
            _unpatchify((0, 3, 1, 2, 4, 5))})


# --- 12.4: a block with adaLN-Zero, repaired
def _block(scale=1.0, skip=1.0, parallel=False, gate_all=False, first=None):
    """A block with some of the colleague's faults."""
    def answer(x, six, attn, mlp):
        shift1, scale1, gate1, shift2, scale2, gate2 = six[:, None].chunk(6, dim=2)

        def branch(x, shift, by, f):
            return f(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (scale + by) + shift)
        if gate_all:
            x = gate1 * (x + branch(x, shift1, scale1, attn))
            return gate2 * (x + branch(x, shift2, scale2, mlp))
        a = gate1 * branch(x, shift1, scale1, attn)
        between = x if parallel else skip * x + a
        b = gate2 * branch(between, shift2, scale2, mlp)
        return skip * x + a + b
    return answer


def _mixing(x):
    """Stands in for attention: tokens see those before them."""
    return x.cumsum(1).tanh()


def _block_cases():
    layer = nn.Linear(6, 6)
    layer.weight.data, layer.bias.data = draw(8, 6, 6), draw(9, 6)
    return [(draw(0, 2, 5, 6).requires_grad_(), draw(1, 2, 36).requires_grad_(), _mixing, torch.sin),
            (draw(2, 3, 4, 6), torch.zeros(3, 36), _mixing, torch.cos),
            (draw(3, 1, 3, 6), draw(4, 1, 36), torch.cos, layer)]


EXERCISES["12.4"] = Exercise(
    right=_block(),
    cases=_block_cases,
    hint="x = x + gate1 attn(norm(x) (1 + scale1) + shift1), then the MLP on that x.",
    mistakes={
        "One fault is left: a scale of 0 deletes the tokens. It must change nothing: 1 + scale.": _block(scale=0.0),
        "One fault is left: with closed gates the block must return x. What it adds must be added to x.":
            _block(skip=0.0, parallel=True),
        "One fault is left: the MLP reads x as it was before the attention.": _block(parallel=True),
        "Two faults are left: the scales, and what the MLP reads.": _block(scale=0.0, parallel=True),
        "Two faults are left: the scales, and that nothing is added to x.": _block(scale=0.0, skip=0.0),
        "Two faults are left: x is not added, and the MLP must read x plus what attention adds.": _block(skip=0.0),
        "You changed nothing that matters: x is missing, the scales delete, and the MLP reads x before the attention.":
            _block(scale=0.0, skip=0.0, parallel=True),
        "The gate belongs to the branch alone. You gate x as well, so closed gates delete it.": _block(gate_all=True)})
