"""Exercises of chapter 06: the latent loss, conditions dropped in training, guidance, the scale factor."""
import torch
from torch import Generator

from . import Exercise, draw
from .chapter_01 import noised, noised_without_roots, per_item

EXERCISES = {}


def _unet(x, t, context):    # instead of a network: some function of all three that is not linear
    return torch.sin(2 * x + (context.square().mean((1, 2)) + t / 500).view(-1, 1, 1, 1)) + 0.3 * x


# --- 06.1: the loss, from what the encoder gives
def _predicted(unet, z, context, t, eps, a, mix=noised):
    return unet(mix(z, eps, per_item(a, t)), t, context)


def _loss(unet, latent, scale, context, t, eps, a, mix=noised):
    return (_predicted(unet, scale * latent, context, t, eps, a, mix) - eps).square().mean()


EXERCISES["06.1"] = Exercise(
    right=_loss,
    cases=lambda: [(_unet, 4 * draw(s, 3, 4, 2, 2), scale, draw(s + 1, 3, 5, 6), torch.tensor(t),
                    draw(s + 2, 3, 4, 2, 2), torch.linspace(0.99, 0.01, 1000))
                   for s, scale, t in ((0, 0.25, [10, 400, 900]), (5, 0.18, [0, 650, 999]))],
    hint="Scale the latent, add noise by the closed form of chapter 01, predict, and average the squared errors.",
    mistakes={
        "You noise the latent as the encoder gives it. Scale it first: the schedule needs data of variance 1.":
            lambda unet, z, s, c, t, e, a: _loss(unet, z, 1, c, t, e, a),
        "You divide by the scale. That is the way back, before decoding.":
            lambda unet, z, s, c, t, e, a: _loss(unet, z, 1 / s, c, t, e, a),
        "The roots are missing: ᾱ and 1 - ᾱ are variances. Multiply by standard deviations.":
            lambda *args: _loss(*args, mix=noised_without_roots),
        "Signal and noise are swapped: at t = 0 nearly everything must be latent.":
            lambda unet, z, s, c, t, e, a: _loss(unet, z, s, c, t, e, 1 - a),
        "You take the sum instead of the mean: a larger latent would have a larger loss.":
            lambda unet, z, *rest: z.numel() * _loss(unet, z, *rest),
        "You add up the batch. Take one mean over everything.": lambda unet, z, *rest: len(z) * _loss(unet, z, *rest),
        "You compare the prediction with the clean latent. This network predicts the noise.":
            lambda unet, z, s, c, t, e, a: (_predicted(unet, s * z, c, t, e, a) - s * z).square().mean(),
        "You compare the prediction with its own input z_t. This network predicts the noise.":
            lambda unet, z, s, c, t, e, a:
                (_predicted(unet, s * z, c, t, e, a) - noised(s * z, e, per_item(a, t))).square().mean(),
        "The square is missing.":
            lambda unet, z, s, c, t, e, a: (_predicted(unet, s * z, c, t, e, a) - e).abs().mean()})


# --- 06.2: conditions dropped in training
def _dropped(context, empty, draws, share):
    return torch.where((draws < share).view(-1, 1, 1), empty, context)


def _dropped_tokens(context, empty, draws, share):
    count = max(1, round(share * context.shape[1]))
    return torch.cat([empty[:, :count].expand(len(context), -1, -1), context[:, count:]], 1)


EXERCISES["06.2"] = Exercise(
    right=_dropped,
    cases=lambda: [(draw(0, 12, 5, 6), draw(1, 1, 5, 6), torch.rand(12, generator=Generator().manual_seed(0)), share)
                   for share in (0.3, 0.6)],
    hint="Where an item's draw is below the share, put the empty text's states; leave the other items alone.",
    mistakes={
        "You drop the whole batch or nothing, by one draw. Every item has its own.":
            lambda context, empty, draws, share: _dropped(context, empty, draws[:1], share),
        "You drop nothing: the network would never see the empty text.": lambda context, *rest: context,
        "You drop everything: the network would see no words.":
            lambda context, empty, draws, share: empty.expand_as(context),
        "You drop the wrong items: share says how many are dropped, not how many are kept.":
            lambda context, empty, draws, share: _dropped(context, empty, 1 - draws, 1 - share),
        "You put zeros. Sampling uses the empty text's states, which are not zero.":
            lambda context, empty, draws, share: _dropped(context, 0 * empty, draws, share),
        "You drop some tokens of every item. A condition is dropped as a whole.": _dropped_tokens})


# --- 06.3: guidance
def _guided(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u + scale * (e_c - e_u)


EXERCISES["06.3"] = Exercise(
    right=_guided,
    cases=lambda: [(_unet, draw(s, 2, 4, 3, 3), torch.tensor([800, 800]), draw(s + 1, 2, 5, 6),
                    1.5 * draw(s + 2, 2, 5, 6), scale) for s, scale in ((0, 4.0), (4, 1.0), (8, 2.5))],
    hint="Start at the unconditional noise and go `scale` times the way to the conditional one.",
    mistakes={
        "You lead away from the condition.": lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, -s),
        "Conditional and unconditional are swapped.": lambda unet, x, t, c, u, s: _guided(unet, x, t, u, c, s),
        "At scale 1 yours is unconditional; it must be the conditional noise. (The paper's w is s - 1.)":
            lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, s - 1),
        "You go one too far: start at the unconditional noise, not at the conditional one.":
            lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, s + 1),
        "You add the conditional noise itself. Add its difference from the unconditional one.":
            lambda unet, x, t, c, u, s: unet(x, t, u) + s * unet(x, t, c),
        "You scale the difference and forget to add it to the unconditional noise.":
            lambda unet, x, t, c, u, s: s * (unet(x, t, c) - unet(x, t, u)),
        "That is the conditional noise: the scale is not used.": lambda unet, x, t, c, u, s: unet(x, t, c),
        "You mix the contexts. Mix the two predictions.": lambda unet, x, t, c, u, s: unet(x, t, u + s * (c - u))})


# --- 06.4: the scale factor
EXERCISES["06.4"] = Exercise(
    right=lambda latents: 1 / latents.std(),
    cases=lambda: [(5 * draw(0, 40, 4, 3, 3) + 3,),
                   (0.4 * draw(1, 30, 4, 2, 2) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1) - 0.5,)],
    tolerance=2e-3,
    hint="One number: 1 over the standard deviation of all numbers of all latents.",
    mistakes={
        "That is the standard deviation itself. The factor is 1 over it.": lambda latents: latents.std(),
        "You divide by the variance. Divide by its root.": lambda latents: 1 / latents.var(),
        "You take the root mean square. Subtract the mean first.": lambda latents: 1 / latents.square().mean().sqrt(),
        "You take the mean square, and no root.": lambda latents: 1 / latents.square().mean(),
        "You take the mean absolute value. Take the standard deviation.": lambda latents: 1 / latents.abs().mean(),
        "You give each channel its own factor. Use one for all.": lambda latents: 1 / latents.std((0, 2, 3))})
