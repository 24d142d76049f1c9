"""The checks of a model. Nothing is sampled: each check compares one number with a bound that healthy models keep."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..attention_maps import Recorder
from ..metrics.distances import psnr
from ..pipeline import LatentDiffusion
from ..schedule import cosine_schedule, linear_schedule, scaled_linear_schedule
from ..support.checks import expect
from ..tiny_worlds.datasets import Example, TinyWorlds
from .findings import Finding

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)    # of T: where the U-Net is tested
SCHEDULES = {"the linear schedule": linear_schedule, "the scaled-linear schedule": scaled_linear_schedule,
             "the cosine schedule": cosine_schedule}


@torch.no_grad()
def examine(ldm: LatentDiffusion, examples: Sequence[Example] | None = None) -> list[Finding]:
    """List what is wrong with a model, the most basic first.

    examples: at least 8, of the size of training, with different texts; by default 32 validation scenes. Semantic maps
    are used if all have one. A check whose outcome an earlier finding explains is left out. Raises ValueError for
    other examples.
    """
    examples = default_examples() if examples is None else examples
    expect(len(examples) >= 8 and len({example.text for example in examples}) > 1, "examples", len(examples),
           "at least 8, with different texts")
    found = []
    for finding in _checks(ldm, examples):
        found.append(finding)
        if finding.severity == "stop":
            break
    return found


def default_examples() -> list[Example]:
    """Paint 32 scenes that are absent from training."""
    return [TinyWorlds("validation", 32)[i] for i in range(32)]


def _checks(ldm: LatentDiffusion, examples: Sequence[Example]) -> Iterator[Finding]:
    yield from _numbers(ldm)
    case = Case(ldm, examples)
    first = list(_autoencoder(ldm, case.images))
    yield from first
    if not any(found.check == "KL" and found.severity != "warning" for found in first):    # else z is useless
        yield from _schedule(case)
    yield from _unet(case)


def _numbers(ldm: LatentDiffusion) -> Iterator[Finding]:
    for part, network in vars(ldm).items():
        tensors = network.state_dict() if isinstance(network, nn.Module) else {}
        if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
            yield Finding("numbers", "stop", f"{len(bad)} tensors of {part}, {bad[0]} first, hold NaN or infinity.")


# All bounds below are written so that NaN counts as a fault.

def _autoencoder(ldm: LatentDiffusion, images: Tensor) -> Iterator[Finding]:
    mean, logvar = ldm.autoencoder.encode(images)
    decoded = ldm.autoencoder.decode(mean)
    outside = (decoded.abs() > 1.05).float().mean().item()
    if loud := not outside <= 0.05:
        yield Finding("pixel range", "fault", f"{outside:.0%} of the decoded pixels are not in [-1, 1].")
    kl = (mean.square() + logvar.exp() - 1 - logvar).mean((0, 2, 3)) / 2                  # (4,), nats per number
    dead = [channel for channel, nats in enumerate(kl) if not nats > 0.02]
    lost = 2 * len(dead) >= len(kl)    # a few may be spared
    if dead:
        severity = "stop" if len(dead) == len(kl) else "fault" if lost else "warning"
        yield Finding("KL", severity, f"{len(dead)} of {len(kl)} latent channels hold {kl[dead].max():.2g} nats a "
                                      "number, at most.")
    flat = images.mean((2, 3), keepdim=True).expand_as(images)
    gain = (psnr(images, decoded) - psnr(images, flat)).mean().item()
    if not lost and not loud and not gain > 4:
        yield Finding("reconstruction", "fault", f"reconstructions are {gain:.1f} dB better than one flat colour.")
    std = ldm.autoencoder.config.scale * mean.std().item()
    if not lost and not 0.75 <= std <= 1.33:
        yield Finding("latent scale", "stop", f"the scaled latents' standard deviation is {std:.2f}, expected about 1.")


class Case:
    """What the checks share: images, latents and noise (B, 4, h, w), and the contexts (B, N, D) of each kind."""

    def __init__(self, ldm: LatentDiffusion, examples: Sequence[Example]):
        self.images = torch.stack([example.image for example in examples]).to(next(ldm.unet.parameters()).device)
        self.unet, self.schedule = ldm.unet, ldm.schedule
        self.levels = [int(level * self.schedule.T) for level in LEVELS]
        self.z = ldm.autoencoder.to_latent(self.images)
        self.eps = torch.randn(self.z.shape, generator=torch.Generator().manual_seed(0)).to(self.z)
        self.losses: dict[tuple, float] = {}
        self.contexts = {"text": ldm.context([example.text for example in examples])}
        if ldm.image_encoder is not None:
            self.contexts["image"] = ldm.context(image=self.images)
        if ldm.map_encoder is not None and all(example.semantic_map is not None for example in examples):
            self.contexts["map"] = ldm.context(semantic_map=torch.stack([example.semantic_map for example in examples]))

    def predict(self, t: int, context: Tensor, t_unet: int | None = None) -> Tensor:
        """Predict the noise in the latents at level t; the U-Net is given `t_unet`, by default t."""
        z_t = self.schedule.add_noise(self.z, self.eps, t)
        return self.unet(z_t, torch.tensor(t if t_unet is None else t_unet, device=self.z.device), context)

    def loss(self, t: int, kind: str, t_unet: int | None = None, shift: int = 0) -> float:
        """MSE of eps when contexts are rolled by `shift` (0 = matching)."""
        key = (t, kind, t if t_unet is None else t_unet, shift)
        if key not in self.losses:
            error = self.predict(t, self.contexts[kind].roll(shift, 0), t_unet) - self.eps
            self.losses[key] = error.square().mean().item()
        return self.losses[key]


def _schedule(case: Case) -> Iterator[Finding]:
    # At the same noise, a U-Net errs least at the t that the schedule of its training has for that noise.
    T, alpha_bar, levels = case.schedule.T, case.schedule.alpha_bar, case.levels[1:4]
    rows = {name: [int((make(T).alpha_bar - alpha_bar[t]).abs().argmin()) for t in levels]
            for name, make in SCHEDULES.items()}
    rows["a schedule with less noise at each t"] = [min(t + T // 12, T - 1) for t in levels]
    rows["a schedule with more noise at each t"] = [max(t - T // 12, 0) for t in levels]
    own, kind = min((sum(case.loss(t, kind) for t in levels), kind) for kind in case.contexts)    # one that works
    losses = {name: sum(case.loss(t, kind, u) for t, u in zip(levels, row)) for name, row in rows.items()}
    best = min(losses, key=losses.get)
    if losses[best] < min(0.85 * own, 0.8 * alpha_bar[levels].sum()):
        yield Finding("schedule", "stop", f"at the same noise the U-Net's error is {own / losses[best]:.1f} times as "
                      f"large with this schedule's t as with that of {best}.")


def _unet(case: Case) -> Iterator[Finding]:
    least = min(sum(case.loss(t, kind) for t in case.levels) / len(case.levels) for kind in case.contexts)
    if not least < 0.9:
        yield Finding("zero predictor", "stop", f"the U-Net's mean error is {least:.2f}; always answering 0 gives 1.")
        return
    alive = {kind: context for kind, context in case.contexts.items() if context.std(0).mean() > 0.01 * context.std()}
    dead = [kind for kind in case.contexts if kind not in alive]
    yield from (Finding("context", "fault", f"whatever the {kind}, the context is the same.") for kind in dead)
    deaf = list(_attention(case, *next(iter(alive.items())))) if alive else []
    yield from deaf
    if deaf or not alive:
        return
    trivial = case.schedule.alpha_bar[case.levels].tolist()    # the error of the best multiple of z_t
    ratio = min(sum(case.loss(t, kind) / a for t, a in zip(case.levels, trivial)) / len(trivial) for kind in alive)
    if ratio < 0.85:
        yield from _listening(case, alive)
    elif len(alive) == len(case.contexts):
        yield Finding("trivial predictor", "fault",
                      f"the U-Net errs {ratio:.2f} times as much as the best multiple of z_t.")


def _attention(case: Case, kind: str, context: Tensor) -> Iterator[Finding]:
    with Recorder(case.unet, "cross_attn") as recorder:
        right = case.predict(case.levels[2], context)
    change = (case.predict(case.levels[2], context.roll(1, 0)) - right).square().mean()
    uniform = [name for name, (weights, *_) in recorder.maps.items()
               if torch.special.entr(weights).sum(-1).mean() > 0.999 * math.log(weights.shape[-1])]
    if not change > 1e-5:
        yield Finding("cross-attention", "fault", f"the U-Net answers the same whatever {kind} it is told.")
    elif uniform:
        yield Finding("attention entropy", "fault" if len(uniform) == len(recorder.maps) else "warning",
                      f"{len(uniform)} of {len(recorder.maps)} cross-attentions look at every token alike.")


def _listening(case: Case, kinds: Sequence[str]) -> Iterator[Finding]:
    # One wrong context may be a tenth worse than the right one by chance, so up to four are averaged.
    shifts = range(1, max(2, min(5, len(case.eps))))
    for kind in kinds:
        right, *others = (sum(case.loss(t, kind, shift=shift) for t in case.levels[2:4]) for shift in (0, *shifts))
        wrong = sum(others) / len(others)
        if not wrong > 1.1 * right:
            yield Finding("listening", "fault", f"told the {kind} of another picture the U-Net errs "
                          f"{wrong / right:.2f} times as much as told the right one, expected clearly more than 1.")
