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
    return -(-sum(sum(shape) for shape in shapes) * bits // 8)


def divides_the_bits_first(shapes, bits):
    return numbers_in(shapes) * (bits // 8)


def rounds_down(shapes, bits):
    return numbers_in(shapes) * bits // 8


def does_not_round(shapes, bits):
    return numbers_in(shapes) * bits / 8


def rounds_each_tensor(shapes, bits):
    return sum((int(np.prod(shape)) * bits + 7) // 8 for shape in shapes)


def misses_the_single_number(shapes, bits):
    return (sum(int(np.prod(shape)) for shape in shapes if len(shape)) * bits + 7) // 8


def gives_mebibytes(shapes, bits):
    return numbers_in(shapes) * bits / 8 / 1024 / 1024


def adds_a_header(shapes, bits):
    return (numbers_in(shapes) * bits + 7) // 8 + 8


def gives_each_tensor(shapes, bits):
    return [int(np.prod(shape)) * bits // 8 for shape in shapes]


# --- 09.4

def learned(layers, rank):
    return sum(rank * (out + into) for out, into in layers)


def forgets_the_gradients(layers, frozen, rank, activations):
    return 2 * frozen + 12 * learned(layers, rank) + activations


def forgets_the_means(layers, frozen, rank, activations):
    return 2 * frozen + 8 * learned(layers, rank) + activations


def counts_the_weights_alone(layers, frozen, rank, activations):
    return 2 * frozen + 4 * learned(layers, rank) + activations


def freezes_in_32_bits(layers, frozen, rank, activations):
    return 4 * frozen + 16 * learned(layers, rank) + activations


def trains_everything(layers, frozen, rank, activations):
    return 16 * (frozen + learned(layers, rank)) + activations


def forgets_the_frozen(layers, frozen, rank, activations):
    return 16 * learned(layers, rank) + activations


def counts_whole_matrices(layers, frozen, rank, activations):
    return 2 * frozen + 16 * sum(out * into for out, into in layers) + activations


def counts_a_only(layers, frozen, rank, activations):
    return 2 * frozen + 16 * sum(rank * into for _, into in layers) + activations


def counts_b_only(layers, frozen, rank, activations):
    return 2 * frozen + 16 * sum(rank * out for out, _ in layers) + activations


def forgets_the_activations(layers, frozen, rank, activations):
    return 2 * frozen + 16 * learned(layers, rank)


def takes_the_first_layer(layers, frozen, rank, activations):
    return 2 * frozen + 16 * learned(layers[:1], rank) + activations


def gives_both_parts(layers, frozen, rank, activations):
    return 2 * frozen + 16 * learned(layers, rank), activations


def gives_gibibytes(layers, frozen, rank, activations):
    return (2 * frozen + 16 * learned(layers, rank) + activations) / 2**30


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
        (divides_the_bits_first, "is 0 for 4 bits"),
        (rounds_down, "You round down"),
        (does_not_round, "a fraction of a byte"),
        (rounds_each_tensor, "round the total"),
        (misses_the_single_number, "has one number, not none"),
        (gives_mebibytes, "You return mebibytes"),
        (adds_a_header, "The values are off"),
        (gives_each_tensor, "Expected a number"),
    ],
    "09.4": [
        (forgets_the_gradients, "four numbers of 4"),
        (forgets_the_means, "You forget Adam's two means"),
        (counts_the_weights_alone, "A and B alone"),
        (freezes_in_32_bits, "in 16 bits"),
        (trains_everything, "no gradients and no means"),
        (forgets_the_frozen, "The values are off"),
        (counts_whole_matrices, "not in x out"),
        (counts_a_only, "The values are off"),
        (counts_b_only, "The values are off"),
        (forgets_the_activations, "The activations are missing"),
        (takes_the_first_layer, "The values are off"),
        (gives_both_parts, "Expected a number"),
        (gives_gibibytes, "The values are off"),
    ],
}
