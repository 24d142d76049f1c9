"""Exercises of chapter 09: names on disk, what attention_head_dim counts, bytes of a model, a merged LoRA."""
import math

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


def _head_cases():
    sd = {"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8}
    return [(sd, 0), (sd, 1), (sd, 2), ({"block_out_channels": [96, 192], "attention_head_dim": 6}, 1)]


EXERCISES["09.2"] = Exercise(
    right=_heads,
    cases=_head_cases,
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


def _bytes_cases():
    shapes = [(320, 4, 3, 3), (320,), (1280, 320), (), (77, 768)]
    return [(shapes, 16), (shapes, 32), (shapes[1:], 8)]


EXERCISES["09.3"] = Exercise(
    right=lambda shapes, bits: _numbers(shapes) * bits // 8,
    cases=_bytes_cases,
    hint="A tensor has as many numbers as the product of its sides; add the tensors up; a byte has 8 bits.",
    mistakes={
        "Those are bits. A byte has 8 of them.": lambda shapes, bits: _numbers(shapes) * bits,
        "You count numbers. Each takes bits / 8 bytes.": lambda shapes, bits: _numbers(shapes),
        "You take 4 bytes for every number. That is float32, 32 bits.": lambda shapes, bits: 4 * _numbers(shapes),
        "You take 2 bytes for every number. That is right for 16 bits only.": lambda shapes, bits: 2 * _numbers(shapes),
        "You add the sides of a tensor. Multiply them.": lambda shapes, bits: sum(map(sum, shapes)) * bits // 8,
        "The shape () has one number, not none.":
            lambda shapes, bits: _numbers([shape for shape in shapes if shape]) * bits // 8,
        "You return mebibytes instead of bytes.": lambda shapes, bits: _numbers(shapes) * bits / 8 / 2**20})


# --- 09.4: a LoRA merged
EXERCISES["09.4"] = Exercise(
    right=lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
    cases=lambda: [(draw(s, 6, 6), draw(s + 1, rank, 6), draw(s + 2, 6, rank), alpha)
                   for s, rank, alpha in ((0, 2, 8.0), (5, 3, 1.0), (9, 4, 3.0))],
    hint="W + (alpha / rank) B A, where the rank is the number of rows of A.",
    mistakes={
        "The scale is missing: alpha / rank.": lambda W, A, B, alpha: W + B @ A,
        "You multiply by alpha and do not divide by the rank.": lambda W, A, B, alpha: W + alpha * B @ A,
        "You multiply by rank / alpha: it is the other way up.": lambda W, A, B, alpha: W + len(A) / alpha * B @ A,
        "That is the change alone. Add it to W.": lambda W, A, B, alpha: alpha / len(A) * B @ A,
        "You add the transposed change: add B A itself.": lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T,
        "You scale both A and B: the change is scaled twice.": lambda W, A, B, alpha: W + (alpha / len(A))**2 * B @ A,
        "You subtract the change: that removes a merged LoRA.": lambda W, A, B, alpha: W - alpha / len(A) * B @ A,
        "You divide by the number of columns of A. The rank is its number of rows.":
            lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A})
