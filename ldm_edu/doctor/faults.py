"""Faults to plant in a healthy model, for the bug clinic and the doctor's tests. Some hardly show in pictures."""
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ..pipeline import LatentDiffusion
from ..schedule import linear_schedule
from ..support.checks import expect


class Fault(NamedTuple):
    """A fault that a model can have."""

    plant: Callable[[LatentDiffusion], object]    # changes a model in place
    symptom: str                                  # what the model then draws
    check: str                                    # the doctor's check that names it


def planted(ldm: LatentDiffusion, name: str) -> LatentDiffusion:
    """Copy `ldm` and plant the fault `name` of FAULTS in the copy. Raises ValueError for an unknown name."""
    expect(name in FAULTS, "name", repr(name), f"one of {', '.join(FAULTS)}")
    broken = copy.deepcopy(ldm)
    with torch.no_grad():
        FAULTS[name].plant(broken)
    return broken


def _multiply(module: nn.Module, factor: float, within: str = "") -> None:
    for name, parameter in module.named_parameters():
        if within in name:
            parameter.mul_(factor)


def _reinitialise(module: nn.Module) -> None:
    """Give a network the weights from before its training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.load_state_dict(type(module)(module.config).state_dict())


FAULTS = {
    "the scale factor is Stable Diffusion's": Fault(
        lambda ldm: setattr(ldm.autoencoder, "config", replace(ldm.autoencoder.config, scale=0.18215)),
        "blurred shapes, burnt colours", "latent scale"),
    "the schedule is another than in training": Fault(
        lambda ldm: setattr(ldm, "schedule", linear_schedule(ldm.schedule.T)),
        "nearly right: laid out in another way", "schedule"),
    "the U-Net's weights were not loaded": Fault(
        lambda ldm: _reinitialise(ldm.unet), "coloured blotches", "zero predictor"),
    "the text encoder gives zeros": Fault(
        lambda ldm: _multiply(ldm.text.transformer, 0), "pictures of anything, whatever the prompt", "context"),
    "cross-attention is not added": Fault(
        lambda ldm: _multiply(ldm.unet, 0, within="cross_attn.to_out"),
        "pictures of anything, whatever the prompt", "cross-attention"),
    "attention without scores": Fault(
        lambda ldm: _multiply(ldm.unet, 0, within="cross_attn.to_q"),
        "landscapes of anything, hardly a thing in them", "attention entropy"),
    "the text encoder is not the one of the training": Fault(
        lambda ldm: _reinitialise(ldm.text.transformer), "pictures of something else", "listening"),
    "the autoencoder has collapsed": Fault(
        lambda ldm: _multiply(ldm.autoencoder.quant_conv, 0),
        "right; but all pictures that are put in come out alike", "KL"),
    "the decoder is three times too loud": Fault(
        lambda ldm: _multiply(ldm.autoencoder.decoder.conv_out, 3), "glaring colours", "pixel range"),
    "a weight is not a number": Fault(
        lambda ldm: ldm.unet.conv_in.weight[0, 0, 0, 0].fill_(torch.nan), "no picture at all", "numbers"),
}
