"""Exercises of chapter 06: the latent loss, guidance, conditions dropped in training, guidance for v-prediction."""
import torch
from torch import Generator, nn

from . import Exercise, draw
from .chapter_01 import noised, noised_without_roots, per_item

EXERCISES = {}


class _Net(nn.Module):    # instead of a U-Net: some function of all three that is not linear, with a weight to learn
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, t, context):
        return torch.sin(self.weight * x + (context.square().mean((1, 2)) + t / 500).view(-1, 1, 1, 1)) + 0.3 * x


# --- 06.1: the loss, from what the encoder gives
def _loss(unet, latent, scale, context, t, eps, a, mix=noised, aim=None):
    return (unet(mix(scale * latent, eps, per_item(a, t)), t, context) - (eps if aim is None else aim)).square().mean()


EXERCISES["06.1"] = Exercise(
    right=_loss,
    cases=lambda: [(_Net(), 4 * draw(s, 3, 4, 2, 2), scale, draw(s + 1, 3, 5, 6), torch.tensor(t),
                    draw(s + 2, 3, 4, 2, 2), torch.linspace(0.99, 0.01, 1000))
                   for s, scale, t in ((0, 0.25, [10, 400, 900]), (5, 0.18, [0, 650, 999]))],
    hint="Scale the latent, add noise by the closed form of chapter 01, predict, and average the squared errors.",
    mistakes={
        "You noise the latent as the encoder gives it. Scale it first: the schedule needs data of variance 1.":
            lambda unet, z, s, *rest: _loss(unet, z, 1, *rest),
        "You divide by the scale, as before decoding.": lambda unet, z, s, *rest: _loss(unet, z, 1 / s, *rest),
        "The roots are missing: ᾱ and 1 - ᾱ are variances. Multiply by standard deviations.":
            lambda *args: _loss(*args, mix=noised_without_roots),
        "Signal and noise are swapped: at t = 0 nearly everything must be latent.":
            lambda *args: _loss(*args[:-1], 1 - args[-1]),
        "You take the sum instead of the mean: a larger latent would have a larger loss.":
            lambda unet, z, *rest: z.numel() * _loss(unet, z, *rest),
        "You add up the batch. Take one mean over everything.": lambda unet, z, *rest: len(z) * _loss(unet, z, *rest),
        "You add up the numbers of a latent and average only over the batch. Take one mean over everything.":
            lambda unet, z, *rest: z[0].numel() * _loss(unet, z, *rest),
        "You compare the prediction with the clean latent. This network predicts the noise.":
            lambda unet, z, s, *rest: _loss(unet, z, s, *rest, aim=s * z)})


# --- 06.2: guidance by two conditions
def _guided(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u + scale * (e_c - e_u)


def _both(unet, x, t, c, d, u, r, s):
    return _guided(unet, x, t, c, u, r) + _guided(unet, x, t, d, u, s) - unet(x, t, u)


EXERCISES["06.2"] = Exercise(
    right=_both,
    cases=lambda: [(_Net(), draw(k, 2, 4, 3, 3), torch.tensor([800, 800]), draw(k + 1, 2, 5, 6),
                    2 * draw(k + 2, 2, 5, 6), 1.5 * draw(k + 3, 2, 5, 6), *scales)
                   for k, *scales in ((0, 4.0, 2.0), (4, 1.0, 0.0), (6, 0.0, 3.0), (8, 2.5, -1.0))],
    hint="Start at the unconditional noise and add, for each condition, its scale times its difference from that.",
    mistakes={
        "You lead away from the conditions.": lambda *args: _both(*args[:-2], -args[-2], -args[-1]),
        "Each condition has the other's scale.": lambda *args: _both(*args[:-2], args[-1], args[-2]),
        "Your scales are one too small: the paper's w.": lambda *args: _both(*args[:-2], args[-2] - 1, args[-1] - 1),
        "You add two guided noises, so the unconditional one counts twice.":
            lambda unet, x, t, c, d, u, r, s: _guided(unet, x, t, c, u, r) + _guided(unet, x, t, d, u, s),
        "You add the conditional noises themselves. Add their differences from the unconditional one.":
            lambda unet, x, t, c, d, u, r, s: unet(x, t, u) + r * unet(x, t, c) + s * unet(x, t, d),
        "The unconditional noise itself is missing.": lambda *args: _both(*args) - args[0](*args[1:3], args[5]),
        "The second condition is not used.": lambda unet, x, t, c, d, u, r, s: _guided(unet, x, t, c, u, r)})


# --- 06.3: conditions dropped in training
def _dropped(context, empty, draws, share):
    return torch.where((draws < share).view(-1, 1, 1), empty, context)


EXERCISES["06.3"] = Exercise(
    right=_dropped,
    cases=lambda: [(draw(0, 12, 5, 6), draw(1, 1, 5, 6), torch.rand(12, generator=Generator().manual_seed(0)), share)
                   for share in (0.3, 0.6, 0.0, 1.0)],
    hint="Where an item's draw is below the share, put the empty text's states; leave the other items alone.",
    mistakes={
        "You drop the whole batch or nothing, by one draw. Every item has its own.":
            lambda context, empty, draws, share: _dropped(context, empty, draws[:1], share),
        "You drop nothing: the network would never see the empty text.": lambda context, *rest: context,
        "You drop the wrong items: share says how many are dropped, not how many are kept.":
            lambda context, empty, draws, share: _dropped(context, empty, 1 - draws, 1 - share),
        "You put zeros. Sampling uses the empty text's states, which are not zero.":
            lambda context, empty, *rest: _dropped(context, 0 * empty, *rest)})


# --- 06.4: guided noise from a network that predicts v
def _noise(x, v, t, a, sign=1):
    return (1 - per_item(a, t)).sqrt() * x + sign * per_item(a, t).sqrt() * v


def _slips(change):    # an answer that makes something else than the noise of z_t, guided v, t and ᾱ
    return lambda net, x, t, c, u, s, a: change(x, _guided(net, x, t, c, u, s), t, a)


EXERCISES["06.4"] = Exercise(
    right=_slips(_noise),
    cases=lambda: [(_Net(), draw(s, 3, 4, 3, 3), torch.tensor([0, 420, 999]), draw(s + 1, 3, 5, 6), 1.5 * draw(
        s + 2, 3, 5, 6), scale, torch.linspace(0.9991, 0.0047, 1000)) for s, scale in ((0, 4.0), (4, 1.0), (6, 0.0))],
    hint="Solve z_t = √ᾱ x₀ + √(1 - ᾱ) ε and v = √ᾱ ε - √(1 - ᾱ) x₀ for ε, and guide.",
    mistakes={
        "That is guided v. The sampler needs the noise, so convert.": _slips(lambda x, v, *rest: v),
        "Signal and noise are swapped in your conversion.": _slips(lambda x, v, t, a: _noise(x, v, t, 1 - a)),
        "That is the clean latent. Return the noise.": _slips(lambda x, v, t, a: _noise(x, v, t, 1 - a, -1)),
        "The sign of v is wrong in your conversion.": _slips(lambda x, v, t, a: _noise(x, v, t, a, -1)),
        "The part of z_t is missing from the noise.": _slips(lambda x, v, t, a: _noise(0 * x, v, t, a)),
        "The roots are missing: ᾱ and 1 - ᾱ are variances.":
            _slips(lambda x, v, t, a: (1 - per_item(a, t)) * x + per_item(a, t) * v),
        "You do not guide.": lambda net, x, t, c, u, s, a: _noise(x, net(x, t, c), t, a)})
