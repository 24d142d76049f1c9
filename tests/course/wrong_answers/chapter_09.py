"""Wrong answers to the exercises of chapter 09, each with a part of its hint."""
import numpy as np

# --- 09.1

RULES = {"block": "transformer_blocks.0", "self_attn": "attn1", "cross_attn": "attn2", "to_out": "to_out.0"}


def by_parts(name, rules):
    return ".".join(rules[part] if part in rules else part for part in name.split("."))


def replaces_anywhere(name):
    for old, new in RULES.items():
        name = name.replace(old, new)
    return name


def swaps_the_attentions(name):
    return by_parts(name, RULES | {"self_attn": "attn2", "cross_attn": "attn1"})


def counts_from_zero(name):
    return by_parts(name, RULES | {"self_attn": "attn0", "cross_attn": "attn1"})


def forgets_to_out(name):
    return by_parts(name, {old: new for old, new in RULES.items() if old != "to_out"})


def forgets_the_number(name):
    return by_parts(name, RULES | {"block": "transformer_blocks"})


def wants_dots_on_both_sides(name):
    for old, new in RULES.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name


def changes_nothing(name):
    return name


def drops_the_last_part(name):
    return by_parts(name.rsplit(".", 1)[0], RULES)


def gives_the_parts(name):
    return by_parts(name, RULES).split(".")


# --- 09.2

def takes_it_at_its_word(config, level):
    d = config["attention_head_dim"]
    return config["block_out_channels"][level] // d, d


def counts_levels_from_one(config, level):
    heads = config["attention_head_dim"]
    return heads, config["block_out_channels"][level - 1] // heads


def forgets_the_level(config, level):
    heads = config["attention_head_dim"]
    return heads, config["block_out_channels"][0] // heads


def gives_all_channels(config, level):
    return config["attention_head_dim"], config["block_out_channels"][level]


def gives_the_width_alone(config, level):
    return config["block_out_channels"][level] // config["attention_head_dim"]


def takes_the_root(config, level):
    heads = config["attention_head_dim"]
    return heads, (config["block_out_channels"][level] / heads) ** 0.5


# --- 09.3

def numbers_in(shapes):
    return sum(int(np.prod(shape)) for shape in shapes)


def gives_bits(shapes, bits):
    return numbers_in(shapes) * bits


def gives_numbers(shapes, bits):
    return numbers_in(shapes)


def takes_four_bytes(shapes, bits):
    return numbers_in(shapes) * 4


def takes_two_bytes(shapes, bits):
    return numbers_in(shapes) * 2


def adds_the_sides(shapes, bits):
    return sum(sum(shape) for shape in shapes) * bits // 8


def misses_the_single_number(shapes, bits):
    return sum(int(np.prod(shape)) for shape in shapes if len(shape)) * bits // 8


def gives_mebibytes(shapes, bits):
    return numbers_in(shapes) * bits / 8 / 1024 / 1024


def adds_a_header(shapes, bits):
    return numbers_in(shapes) * bits // 8 + 8


def gives_each_tensor(shapes, bits):
    return [int(np.prod(shape)) * bits // 8 for shape in shapes]


# --- 09.4

def forgets_the_scale(W, A, B, alpha):
    return W + B @ A


def forgets_the_rank(W, A, B, alpha):
    return W + alpha * (B @ A)


def turns_the_scale_over(W, A, B, alpha):
    return W + A.shape[0] / alpha * (B @ A)


def forgets_the_weight(W, A, B, alpha):
    return alpha / A.shape[0] * (B @ A)


def transposes(W, A, B, alpha):
    return W + alpha / A.shape[0] * (A.T @ B.T)


def scales_both(W, A, B, alpha):
    scale = alpha / A.shape[0]
    return W + (scale * B) @ (scale * A)


def takes_away(W, A, B, alpha):
    return W - alpha / A.shape[0] * (B @ A)


def divides_by_the_columns(W, A, B, alpha):
    return W + alpha / A.shape[1] * (B @ A)


def multiplies_in_the_wrong_order(W, A, B, alpha):
    return W + alpha / A.shape[0] * (A @ B)


def gives_the_change_and_the_weight(W, A, B, alpha):
    return W, alpha / A.shape[0] * (B @ A)


def scales_the_weight_too(W, A, B, alpha):
    return alpha / A.shape[0] * (W + B @ A)


WRONG = {
    "09.1": [
        (replaces_anywhere, "inside `down_blocks`"),
        (swaps_the_attentions, "The two attentions are swapped"),
        (counts_from_zero, "from 1"),
        (forgets_to_out, "You leave to_out alone"),
        (forgets_the_number, "no number"),
        (wants_dots_on_both_sides, "they have one dot only"),
        (changes_nothing, "You change nothing"),
        (drops_the_last_part, "Split the name at its dots"),
        (gives_the_parts, "Got ["),
        (RULES, "Expected a function"),
    ],
    "09.2": [
        (takes_it_at_its_word, "the first of your two numbers"),
        (counts_levels_from_one, "Levels count from 0"),
        (forgets_the_level, "the first level's channels"),
        (gives_all_channels, "all heads together"),
        (gives_the_width_alone, "Expected 2 results"),
        (takes_the_root, "The values are off"),
    ],
    "09.3": [
        (gives_bits, "Those are bits"),
        (gives_numbers, "You count numbers"),
        (takes_four_bytes, "You take 4 bytes"),
        (takes_two_bytes, "You take 2 bytes"),
        (adds_the_sides, "You add the sides"),
        (misses_the_single_number, "has one number, not none"),
        (gives_mebibytes, "You return mebibytes"),
        (adds_a_header, "The values are off"),
        (gives_each_tensor, "Expected a number"),
    ],
    "09.4": [
        (forgets_the_scale, "The scale is missing"),
        (forgets_the_rank, "do not divide by the rank"),
        (turns_the_scale_over, "the other way up"),
        (forgets_the_weight, "the change alone"),
        (transposes, "the transposed change"),
        (scales_both, "scaled twice"),
        (takes_away, "You subtract the change"),
        (divides_by_the_columns, "number of columns"),
        (multiplies_in_the_wrong_order, "Your function stops"),
        (gives_the_change_and_the_weight, "Expected a tensor of shape (6, 6)"),
        (scales_the_weight_too, "The values are off"),
    ],
}
