"""Exercises of chapter 09: names on disk, what attention_head_dim counts, attention in pieces, memory for a LoRA."""
import math

import torch

from . import Exercise, draw

EXERCISES = {}


# --- 09.1: our name of a tensor -> diffusers'
_NAMES = {"block": "transformer_blocks.0", "self_attn": "attn1", "cross_attn": "attn2", "to_out": "to_out.0"}


def _renamed(**other):
    """The rules, with some of them changed."""
    return lambda name: ".".join((_NAMES | other).get(part, part) for part in name.split("."))


def _replaced(dot):
    """Replace the names with `dot` on both sides."""
    def answer(name):
        for ours, theirs in _NAMES.items():
            name = name.replace(f"{dot}{ours}{dot}", f"{dot}{theirs}{dot}")
        return name
    return answer


EXERCISES["09.1"] = Exercise(
    right=_renamed(),
    cases=lambda: [("down_blocks.0.attentions.1.block.cross_attn.to_q.weight",),
                   ("up_blocks.3.attentions.2.block.self_attn.to_out.bias",),
                   ("up_blocks.1.resnets.0.conv1.weight",),
                   ("block.cross_attn.to_out",)],
    hint="Split the name at its dots, replace the parts that have a rule, and join.",
    mistakes={
        "You replace `block` inside `down_blocks`, too. A rule is for a whole part between dots.": _replaced(""),
        "The two attentions are swapped: attn1 looks at pixels, attn2 at words.":
            _renamed(self_attn="attn2", cross_attn="attn1"),
        "diffusers counts its two attentions from 1.": _renamed(self_attn="attn0", cross_attn="attn1"),
        "You leave to_out alone. In diffusers it is a list; the linear layer is number 0.": _renamed(to_out="to_out"),
        "Your blocks have no number. In diffusers they stand in a list, so each has one: 0.":
            _renamed(block="transformer_blocks"),
        "Parts at the beginning and the end of a name count as well: they have one dot only.": _replaced("."),
        "You change nothing.": lambda name: name})


# --- 09.2: heads, and the width of each
def _heads(config, level):
    heads = config["attention_head_dim"]
    return heads, config["block_out_channels"][level] // heads


EXERCISES["09.2"] = Exercise(
    right=_heads,
    cases=lambda: [*(({"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8}, i) for i in range(4)),
                   ({"block_out_channels": [96, 192], "attention_head_dim": 6}, 1)],
    hint="In version 1 the entry counts heads, whatever its name says. The level's channels are divided among them.",
    mistakes={
        "In version 1 `attention_head_dim` is the number of heads, whatever its name says: the first of your two "
        "numbers.": lambda config, level: _heads(config, level)[::-1],
        "Levels count from 0.": lambda config, level: _heads(config, level - 1),
        "You take the first level's channels for every level.": lambda config, level: _heads(config, 0),
        "You give the width of all heads together. Divide it by their number.":
            lambda config, level: (config["attention_head_dim"], config["block_out_channels"][level])})


# --- 09.3: attention in pieces
def _pieces(keys, values, size):
    """Give keys and values `size` at a time, always in the same memory."""
    buffers = torch.empty(size, keys.shape[1]), torch.empty(size, values.shape[1])
    for parts in zip(keys.split(size), values.split(size)):
        yield tuple(buffer[:len(part)].copy_(part) for buffer, part in zip(buffers, parts))


def _fused(scaled=True, ceiling=torch.maximum, keep_sum=lambda old, new: (old - new).exp(), keep_values=None):
    """Attention over pieces. ceiling: of (old, found); keep_*: factors of the old sum and of the old values."""
    def answer(q, pieces):
        top, total, mixed = torch.full((len(q), 1), -math.inf), torch.zeros(len(q), 1), 0.0
        for k, v in pieces:
            scores = q @ k.T / (math.sqrt(q.shape[1]) if scaled else 1)
            new = ceiling(top, scores.amax(1, keepdim=True))
            weight = (scores - new).exp()
            total = keep_sum(top, new) * total + weight.sum(1, keepdim=True)
            mixed = (keep_values or keep_sum)(top, new) * mixed + weight @ v
            top = new
        return mixed / total
    return answer


def _attend(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v


def _collected(q, pieces):
    keys, values = zip(*pieces)
    return _attend(q, torch.cat(keys), torch.cat(values))


def _averaged(q, pieces):
    return torch.stack([_attend(q, k, v) for k, v in pieces]).mean(0)


def _last(q, pieces):
    return [_attend(q, k, v) for k, v in pieces][-1]


def _whole(q, pieces):
    keys, values = zip(*((k.clone(), v.clone()) for k, v in pieces))
    return _attend(q, torch.cat(keys), torch.cat(values))


EXERCISES["09.3"] = Exercise(
    right=_whole,
    cases=lambda: [(scale * draw(seed, 5, 8), _pieces(draw(seed + 1, m, 8), draw(seed + 2, m, 3), size))
                   for seed, scale, m, size in ((0, 1, 12, 4), (3, 1, 7, 3), (6, 200, 12, 4), (9, 1, 1, 2))],
    hint="Remember three things: the largest score so far, the sum of e^(score - largest), and the values with these "
         "weights. A larger score makes all older weights e^(old - new) times as large.",
    mistakes={
        "When a larger score turns up, the old sum and the old values must shrink by e^(old - new).":
            _fused(keep_sum=lambda old, new: 1.0),
        "The values that you have added up must shrink with their sum.": _fused(keep_values=lambda old, new: 1.0),
        "The sum must shrink with the values that you have added up.":
            _fused(keep_sum=lambda old, new: 1.0, keep_values=lambda old, new: (old - new).exp()),
        "You shrink by e^(new - old), which grows. What was counted against the old largest score counts for less now.":
            _fused(keep_sum=lambda old, new: (new - old).exp().nan_to_num(posinf=1.0)),
        "e to the 89 is infinite in float32. Subtract the largest score so far.":
            _fused(ceiling=lambda old, found: torch.zeros_like(found)),
        "The largest score of the first piece is not enough: later ones may exceed it by hundreds.":
            _fused(ceiling=lambda old, found: torch.where(old.isinf(), found, old)),
        "The largest score of a piece must not replace a larger one from before. Take the maximum of both.":
            _fused(ceiling=lambda old, found: found, keep_sum=lambda old, new: 1.0),
        "Scores are divided by the root of d.": _fused(scaled=False),
        "You keep the pieces, but each overwrites the one before. Use it before you ask for the next.": _collected,
        "A mean over the pieces gives all of them the same weight, whatever their scores.": _averaged,
        "You return what the last piece gives.": _last})


# --- 09.4: bytes for training a LoRA
def _budget(each=16, frozen_each=2, count=lambda out, into, rank: rank * (out + into), kept=1):
    """Bytes, with so many for each learned and each frozen number, and `kept` of the activations."""
    return lambda layers, frozen, rank, activations: frozen_each * frozen + kept * activations + each * sum(
        count(out, into, rank) for out, into in layers)


EXERCISES["09.4"] = Exercise(
    right=_budget(),
    cases=lambda: [([(64, 64), (64, 128), (64, 96)], 10**4, 4, 12345), ([(320, 768)], 10**6, 1, 0), ([], 9, 8, 5)],
    hint="2 bytes a frozen weight, 16 for each number of A (rank x in) and B (out x rank), and the activations.",
    mistakes={
        "A learned number needs four numbers of 4 bytes: itself, its gradient and two means.": _budget(12),
        "You forget Adam's two means, 8 bytes for each learned number.": _budget(8),
        "You count A and B alone, without gradients and means.": _budget(4),
        "The frozen weights are stored in 16 bits: 2 bytes each.": _budget(frozen_each=4),
        "Frozen weights need no gradients and no means.": _budget(frozen_each=16),
        "A LoRA has rank x (in + out) numbers, not in x out.": _budget(count=lambda out, into, rank: out * into),
        "The activations are missing: the backward pass needs them.": _budget(kept=0)})
