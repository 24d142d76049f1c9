"""Exercises of chapter 09: names on disk, what attention_head_dim counts, bytes of a model, memory for a LoRA."""
import math

from . import Exercise

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


# --- 09.3: bytes
def _numbers(shapes):
    return sum(math.prod(shape) for shape in shapes)


EXERCISES["09.3"] = Exercise(
    right=lambda shapes, bits: -(-_numbers(shapes) * bits // 8),
    cases=lambda: [([(320, 4, 3, 3), (320,), (1280, 320), (), (77, 768)], bits) for bits in (16, 32, 8, 4)] + [
        ([(3,), (5,), (2, 2)], 4)],
    hint="Multiply a tensor's sides, add the tensors up, divide by 8 bits a byte, and round up.",
    mistakes={
        "Those are bits. A byte has 8 of them.": lambda shapes, bits: _numbers(shapes) * bits,
        "You count numbers. Each takes bits / 8 bytes.": lambda shapes, bits: _numbers(shapes),
        "You take 4 bytes for every number. That is float32, 32 bits.": lambda shapes, bits: 4 * _numbers(shapes),
        "You take 2 bytes for every number. That is right for 16 bits only.": lambda shapes, bits: 2 * _numbers(shapes),
        "You add the sides of a tensor. Multiply them.": lambda shapes, bits: -(-sum(map(sum, shapes)) * bits // 8),
        "The shape () has one number, not none.": lambda shapes, bits: -(-_numbers(filter(None, shapes)) * bits // 8),
        "bits // 8 is 0 for 4 bits. Multiply by the bits first.": lambda shapes, bits: _numbers(shapes) * (bits // 8),
        "You round down: half a byte takes a byte.": lambda shapes, bits: _numbers(shapes) * bits // 8,
        "You return a fraction of a byte. Round up.": lambda shapes, bits: _numbers(shapes) * bits / 8,
        "You round each tensor up. They are packed together: round the total.":
            lambda shapes, bits: sum(-(-math.prod(shape) * bits // 8) for shape in shapes),
        "You return mebibytes instead of bytes.": lambda shapes, bits: _numbers(shapes) * bits / 8 / 2**20})


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
