"""Exercises of chapter 06: the latent loss, conditions dropped in training, guidance, the scale factor."""
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def _unet(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Any function of all three that is not linear."""
    told = context.square().mean((1, 2)) + t / 500
    return torch.sin(2 * x + told.view(-1, 1, 1, 1)) + 0.3 * x


# --- 06.1: the loss, from what the encoder gives

def _noised(z: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * eps


def _loss(unet: Callable, latent: Tensor, scale: float, context: Tensor, t: Tensor, eps: Tensor,
          alpha_bar: Tensor) -> Tensor:
    return (unet(_noised(scale * latent, t, eps, alpha_bar), t, context) - eps).square().mean()


def _without_roots(unet: Callable, latent: Tensor, scale: float, context: Tensor, t: Tensor, eps: Tensor,
                   alpha_bar: Tensor) -> Tensor:
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return (unet(a * scale * latent + (1 - a) * eps, t, context) - eps).square().mean()


def _against(target: str) -> Callable:
    """The loss with another target than the noise."""
    def loss(unet, latent, scale, context, t, eps, alpha_bar):
        z = scale * latent
        z_t = _noised(z, t, eps, alpha_bar)
        return (unet(z_t, t, context) - {"z": z, "z_t": z_t}[target]).square().mean()
    return loss


def _loss_cases() -> list[tuple]:
    alpha_bar = torch.linspace(0.99, 0.01, 1000)
    return [(_unet, 4 * _randn(3, 4, 2, 2, seed=s), scale, _randn(3, 5, 6, seed=s + 1), torch.tensor(t),
             _randn(3, 4, 2, 2, seed=s + 2), alpha_bar)
            for s, scale, t in ((0, 0.25, [10, 400, 900]), (5, 0.18, [0, 650, 999]))]


# --- 06.2: conditions dropped in training

def _dropped(context: Tensor, empty: Tensor, draws: Tensor, share: float) -> Tensor:
    return torch.where((draws < share).view(-1, 1, 1), empty, context)


def _all_or_none(context: Tensor, empty: Tensor, draws: Tensor, share: float) -> Tensor:
    return empty.expand_as(context) if draws[0] < share else context


def _tokens(context: Tensor, empty: Tensor, draws: Tensor, share: float) -> Tensor:
    """The first `share` of every item's tokens."""
    count = max(1, round(share * context.shape[1]))
    return torch.cat([empty[:, :count].expand(len(context), -1, -1), context[:, count:]], 1)


def _dropped_cases() -> list[tuple]:
    draws = torch.rand(12, generator=Generator().manual_seed(0))
    return [(_randn(12, 5, 6, seed=0), _randn(1, 5, 6, seed=1), draws, share) for share in (0.3, 0.6)]


# --- 06.3: guidance

def _guided(unet: Callable, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u + scale * (e_c - e_u)


def _guided_cases() -> list[tuple]:
    return [(_unet, _randn(2, 4, 3, 3, seed=s), torch.tensor([800, 800]), _randn(2, 5, 6, seed=s + 1),
             1.5 * _randn(2, 5, 6, seed=s + 2), scale) for s, scale in ((0, 4.0), (4, 1.0), (8, 2.5))]


# --- 06.4: the scale factor

def _scale(latents: Tensor) -> Tensor:
    return 1 / latents.std()


def _scale_cases() -> list[tuple]:
    return [(5 * _randn(40, 4, 3, 3, seed=0) + 3,),
            (0.4 * _randn(30, 4, 2, 2, seed=1) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1) - 0.5,)]


EXERCISES = {
    "06.1": Exercise(
        right=_loss,
        cases=_loss_cases,
        hint="Scale the latent, add noise by the closed form of chapter 01, predict, and average the squared errors.",
        mistakes={
            "You add noise to the latent as the encoder gives it. Multiply it by the scale first: the schedule was "
            "made for data of variance 1.":
                lambda unet, z, scale, c, t, eps, a: _loss(unet, z, 1.0, c, t, eps, a),
            "You divide by the scale. That is the way back, before decoding.":
                lambda unet, z, scale, c, t, eps, a: _loss(unet, z, 1 / scale, c, t, eps, a),
            "The roots are missing: ᾱ and 1 - ᾱ are variances, and what latent and noise are multiplied by are "
            "standard deviations.": _without_roots,
            "Signal and noise have changed places: at t = 0 nearly all must be latent.":
                lambda unet, z, scale, c, t, eps, a: _loss(unet, z, scale, c, t, eps, 1 - a),
            "You add up where the mean is asked for: a larger latent would have a larger loss.":
                lambda unet, z, scale, c, t, eps, a: eps.numel() * _loss(unet, z, scale, c, t, eps, a),
            "You average over the numbers and add up over the batch. It is one mean over all.":
                lambda unet, z, scale, c, t, eps, a: len(z) * _loss(unet, z, scale, c, t, eps, a),
            "You compare the prediction with the clean latent. This network predicts the noise.": _against("z"),
            "You compare the prediction with its own input z_t. This network predicts the noise.": _against("z_t"),
            "The square is missing.":
                lambda unet, z, scale, c, t, eps, a:
                    (unet(_noised(scale * z, t, eps, a), t, c) - eps).abs().mean()}),
    "06.2": Exercise(
        right=_dropped,
        cases=_dropped_cases,
        hint="Where an item's draw is below the share, put the empty text's states; leave the other items alone.",
        mistakes={
            "You drop the whole batch or nothing, by one draw. Every item has its own.": _all_or_none,
            "You drop nothing: the network would never see the empty text, and guidance would lead away from "
            "whatever it makes of it.": lambda context, empty, draws, share: context,
            "You drop everything: the network would never hear a word.":
                lambda context, empty, draws, share: empty.expand_as(context),
            "You drop the wrong items: share is what is to be lost, not what is to be kept.":
                lambda context, empty, draws, share: _dropped(context, empty, 1 - draws, 1 - share),
            "You put zeros. In sampling, the empty text's states will come, and they are not zero.":
                lambda context, empty, draws, share: _dropped(context, 0 * empty, draws, share),
            "You drop some tokens of every item. A condition is dropped whole.": _tokens}),
    "06.3": Exercise(
        right=_guided,
        cases=_guided_cases,
        hint="Start at the unconditional noise and go `scale` times the way to the conditional one.",
        mistakes={
            "The sign is reversed: you lead away from the condition.":
                lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, -s),
            "Conditional and unconditional have changed places.":
                lambda unet, x, t, c, u, s: _guided(unet, x, t, u, c, s),
            "At scale 1 you do nothing at all; there it must be the conditional noise. (The paper counts so: w = s - 1 "
            "upon the conditional.)": lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, s - 1),
            "You are one too far: start at the unconditional noise, not at the conditional.":
                lambda unet, x, t, c, u, s: _guided(unet, x, t, c, u, s + 1),
            "You add the conditional noise itself, not its difference from the unconditional: two noises, one too "
            "many.":
                lambda unet, x, t, c, u, s: unet(x, t, u) + s * unet(x, t, c),
            "You scale the difference and forget to start from anything.":
                lambda unet, x, t, c, u, s: s * (unet(x, t, c) - unet(x, t, u)),
            "You go there at scale 1 only: the scale is not used.":
                lambda unet, x, t, c, u, s: unet(x, t, c),
            "You mix the contexts. What is mixed are the two predictions.":
                lambda unet, x, t, c, u, s: unet(x, t, u + s * (c - u))}),
    "06.4": Exercise(
        right=_scale,
        cases=_scale_cases,
        tolerance=2e-3,
        hint="One number: 1 over the standard deviation of all numbers of all latents.",
        mistakes={
            "That is the standard deviation itself. What you multiply by is 1 over it.":
                lambda latents: latents.std(),
            "You divide by the variance: the scaled latents would have a standard deviation of 1 over the old one.":
                lambda latents: 1 / latents.var(),
            "You take the root of the mean of the squares, which counts the mean as spread.":
                lambda latents: 1 / latents.square().mean().sqrt(),
            "You take the mean of the squares, and no root.":
                lambda latents: 1 / latents.square().mean(),
            "You take the mean absolute value. It is a spread, but not the standard deviation.":
                lambda latents: 1 / latents.abs().mean(),
            "One number for all channels is asked for, as Stable Diffusion has; you give each its own.":
                lambda latents: 1 / latents.std((0, 2, 3))}),
}
