"""Exercises of chapter 09: names on disk, what attention_head_dim counts, bytes of a model, a merged LoRA."""
import math
import re
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from . import Exercise


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


# --- 09.1: our name of a tensor -> diffusers'

_NAMES = {"block": "transformer_blocks.0", "self_attn": "attn1", "cross_attn": "attn2", "to_out": "to_out.0"}


def _renamed(**other: str) -> Callable:
    """What the rules say, part by part, with some of them changed."""
    rules = _NAMES | other
    return lambda name: ".".join(rules.get(part, part) for part in name.split("."))


def _anywhere(name: str) -> str:
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _inside_dots(name: str) -> str:
    """Each rule once only, and never at the end."""
    for ours, theirs in _NAMES.items():
        name = re.sub(rf"\.{ours}\.", f".{theirs}.", name)
    return name


def _name_cases() -> list[tuple]:
    return [("down_blocks.0.attentions.1.block.cross_attn.to_q.weight",),
            ("up_blocks.3.attentions.2.block.self_attn.to_out.bias",),
            ("up_blocks.1.resnets.0.conv1.weight",),
            ("block.cross_attn.to_out",)]


# --- 09.2: heads, and the width of each

def _heads(config: dict, level: int) -> tuple[int, int]:
    heads = config["attention_head_dim"]
    return heads, config["block_out_channels"][level] // heads


def _read_as_width(config: dict, level: int) -> tuple[int, int]:
    width = config["attention_head_dim"]
    return config["block_out_channels"][level] // width, width


def _head_cases() -> list[tuple]:
    sd = {"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8}
    other = {"block_out_channels": [96, 192], "attention_head_dim": 6}
    return [(sd, 0), (sd, 1), (sd, 2), (other, 1)]


# --- 09.3: bytes

def _numbers(shapes: list[tuple]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _bytes_cases() -> list[tuple]:
    shapes = [(320, 4, 3, 3), (320,), (1280, 320), (), (77, 768)]
    return [(shapes, 16), (shapes, 32), (shapes[1:], 8)]


# --- 09.4: a LoRA merged

def _merged(W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return W + alpha / len(A) * B @ A


def _lora_cases() -> list[tuple]:
    return [(_randn(6, 6, seed=s), _randn(rank, 6, seed=s + 1), _randn(6, rank, seed=s + 2), alpha)
            for s, rank, alpha in ((0, 2, 8.0), (5, 3, 1.0), (9, 4, 3.0))]


EXERCISES = {
    "09.1": Exercise(
        right=_renamed(),
        cases=_name_cases,
        hint="Cut the name at its dots, exchange the parts that a rule names, leave the others as they are, and join.",
        mistakes={
            "You exchange `block` inside of `down_blocks`, too. A rule is for a whole part between dots.": _anywhere,
            "You have the two attentions the wrong way round: attn1 looks at pixels, attn2 at words.":
                _renamed(self_attn="attn2", cross_attn="attn1"),
            "diffusers counts its two attentions from 1.": _renamed(self_attn="attn0", cross_attn="attn1"),
            "You leave to_out alone. There it is a list of a linear layer and a dropout, and the layer is number 0.":
                _renamed(to_out="to_out"),
            "Your blocks have no number. There they stand in a list, which has one: 0.":
                _renamed(block="transformer_blocks"),
            "A part at the very end or the very beginning of a name counts as well: it has a dot on one side only.":
                _inside_dots,
            "You change nothing.": lambda name: name}),
    "09.2": Exercise(
        right=_heads,
        cases=_head_cases,
        hint="In version 1 the entry counts heads, whatever its name says; the level's channels are shared out among "
             "them.",
        mistakes={
            "You take the entry at its word. In version 1 `attention_head_dim` is how many heads there are, the first "
            "of the two numbers asked for.": _read_as_width,
            "Levels count from 0.": lambda config, level: _heads(config, level - 1),
            "You take the first level's channels for every level.": lambda config, level: _heads(config, 0),
            "You give the width of all heads together. Each has its share.":
                lambda config, level: (config["attention_head_dim"], config["block_out_channels"][level])}),
    "09.3": Exercise(
        right=lambda shapes, bits: _numbers(shapes) * bits // 8,
        cases=_bytes_cases,
        hint="A tensor has the product of its sides many numbers; add the tensors up; a byte has 8 bits.",
        mistakes={
            "Those are bits. A byte has 8 of them.": lambda shapes, bits: _numbers(shapes) * bits,
            "You count numbers. Each takes bits / 8 bytes.": lambda shapes, bits: _numbers(shapes),
            "You take 4 bytes for every number. That is float32, 32 bits.": lambda shapes, bits: 4 * _numbers(shapes),
            "You take 2 bytes for every number. That is 16 bits; there are other types.":
                lambda shapes, bits: 2 * _numbers(shapes),
            "You add the sides of a tensor. Its numbers are their product.":
                lambda shapes, bits: sum(map(sum, shapes)) * bits // 8,
            "The shape () has one number, not none.":
                lambda shapes, bits: _numbers([shape for shape in shapes if shape]) * bits // 8,
            "You give mebibytes. Bytes are asked for.": lambda shapes, bits: _numbers(shapes) * bits / 8 / 2**20}),
    "09.4": Exercise(
        right=_merged,
        cases=_lora_cases,
        hint="W + (alpha / rank) B A, where the rank is the number of rows of A.",
        mistakes={
            "The scale is missing: alpha / rank.": lambda W, A, B, alpha: W + B @ A,
            "You multiply by alpha and do not divide by the rank.": lambda W, A, B, alpha: W + alpha * B @ A,
            "You multiply by rank / alpha: it is the other way up.":
                lambda W, A, B, alpha: W + len(A) / alpha * B @ A,
            "That is the change alone. It is added to W.": lambda W, A, B, alpha: alpha / len(A) * B @ A,
            "You add the transposed change: B A, not its transpose.":
                lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T,
            "You scale A and B both: together they are scaled twice.":
                lambda W, A, B, alpha: W + (alpha / len(A))**2 * B @ A,
            "You take the LoRA away. `W - ...` takes a merged one out again.":
                lambda W, A, B, alpha: W - alpha / len(A) * B @ A,
            "You divide by the number of columns of A. The rank is its number of rows.":
                lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A}),
}
