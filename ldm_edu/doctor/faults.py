"""Faults to plant in a healthy model, for the bug clinic and the doctor's tests. Some hardly show in pictures."""
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ..blocks import Attention
from ..pipeline import LatentDiffusion
from ..schedule import linear_schedule
from ..unet import UNet


class Fault(NamedTuple):
    """plant: changes a model in place; symptom: what it then draws; check: the check of the doctor that names it."""

    plant: Callable[[LatentDiffusion], None]
    symptom: str
    check: str


def planted(ldm: LatentDiffusion, name: str) -> LatentDiffusion:
    """A copy of `ldm` with the fault `name` of FAULTS; `ldm` stays as it is. Raises ValueError for an unknown name."""
    if name not in FAULTS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(FAULTS)}")
    broken = copy.deepcopy(ldm)
    with torch.no_grad():
        FAULTS[name].plant(broken)
    return broken


def _scale(ldm: LatentDiffusion) -> None:
    ldm.autoencoder.config = replace(ldm.autoencoder.config, scale=1.0)


def _collapse(ldm: LatentDiffusion) -> None:
    _zero(ldm.autoencoder.quant_conv)


def _loud(ldm: LatentDiffusion) -> None:
    _times(ldm.autoencoder.decoder.conv_out, 3.0)


def _linear(ldm: LatentDiffusion) -> None:
    ldm.schedule = linear_schedule(ldm.schedule.T)


def _untrained(ldm: LatentDiffusion) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ldm.unet = UNet(ldm.unet.config).to(next(ldm.unet.parameters()).device).eval()


def _mute(ldm: LatentDiffusion) -> None:
    _zero(ldm.text.transformer)


def _unplugged(ldm: LatentDiffusion) -> None:
    for layer in _cross_attention(ldm):
        _zero(layer.to_out)


def _uniform(ldm: LatentDiffusion) -> None:
    for layer in _cross_attention(ldm):
        _zero(layer.to_q)


def _reinitialised(ldm: LatentDiffusion) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = type(ldm.text.transformer)(ldm.text.transformer.config)
    ldm.text.transformer = transformer.to(next(ldm.unet.parameters()).device).eval()


def _nan(ldm: LatentDiffusion) -> None:
    ldm.unet.conv_in.weight[0, 0, 0, 0] = float("nan")


def _cross_attention(ldm: LatentDiffusion) -> list[Attention]:
    return [module for name, module in ldm.unet.named_modules() if name.endswith("cross_attn")]


def _zero(module: nn.Module) -> None:
    _times(module, 0.0)


def _times(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


FAULTS = {
    "the scale factor is forgotten": Fault(_scale, "nearly right: details and colours a little off", "latent scale"),
    "the schedule is another than in training": Fault(_linear, "nearly right: laid out in another way", "schedule"),
    "the U-Net's weights were not loaded": Fault(_untrained, "coloured blotches", "zero predictor"),
    "the text encoder gives zeros": Fault(_mute, "pictures of anything, whatever the prompt", "context"),
    "cross-attention is not added": Fault(_unplugged, "pictures of anything, whatever the prompt", "cross-attention"),
    "attention without scores": Fault(_uniform, "landscapes of anything, hardly a thing in them", "attention entropy"),
    "the text encoder is not the one of the training": Fault(_reinitialised, "pictures of something else", "listening"),
    "the autoencoder has collapsed": Fault(_collapse, "right; but all pictures that are put in come out alike", "KL"),
    "the decoder is three times too loud": Fault(_loud, "glaring colours", "pixel range"),
    "a weight is not a number": Fault(_nan, "no picture at all", "numbers"),
}
