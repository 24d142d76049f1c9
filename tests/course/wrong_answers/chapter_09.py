"""Wrong answers to the exercises of chapter 09, each with a part of its hint."""
import torch

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

def scores_of(q, k):
    return q @ k.transpose(0, 1) / q.shape[-1] ** 0.5


def never_shrinks(q, pieces):
    top, total, mixed = torch.full([len(q)], -torch.inf), torch.zeros(len(q)), 0
    for k, v in pieces:
        scores = scores_of(q, k)
        top = torch.maximum(top, scores.max(dim=1).values)
        weights = torch.exp(scores - top[:, None])
        total, mixed = total + weights.sum(1), mixed + weights @ v
    return mixed / total[:, None]


def shrinks(q, pieces, of_sum, of_values):
    top, total, mixed = None, 0, 0
    for k, v in pieces:
        scores = scores_of(q, k)
        highest = scores.max(dim=1, keepdim=True).values
        new = highest if top is None else torch.max(top, highest)
        factor = 1 if top is None else torch.exp(top - new)
        weights = torch.exp(scores - new)
        total = total * (factor if of_sum else 1) + weights.sum(dim=1, keepdim=True)
        mixed = mixed * (factor if of_values else 1) + weights @ v
        top = new
    return mixed / total


def forgets_the_values(q, pieces):
    return shrinks(q, pieces, True, False)


def forgets_the_sum(q, pieces):
    return shrinks(q, pieces, False, True)


def subtracts_nothing(q, pieces):
    total, mixed = 0, 0
    for k, v in pieces:
        weights = torch.exp(scores_of(q, k))
        total, mixed = total + weights.sum(dim=1, keepdim=True), mixed + weights @ v
    return mixed / total


def keeps_the_first_maximum(q, pieces):
    top, total, mixed = None, 0, 0
    for k, v in pieces:
        scores = scores_of(q, k)
        top = scores.max(dim=1, keepdim=True).values if top is None else top
        weights = torch.exp(scores - top)
        total, mixed = total + weights.sum(dim=1, keepdim=True), mixed + weights @ v
    return mixed / total


def takes_a_maximum_for_each_piece(q, pieces):
    total, mixed = 0, 0
    for k, v in pieces:
        scores = scores_of(q, k)
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        total, mixed = total + weights.sum(dim=1, keepdim=True), mixed + weights @ v
    return mixed / total


def forgets_the_root(q, pieces):
    return shrinks(q * q.shape[-1] ** 0.5, pieces, True, True)


def keeps_every_piece(q, pieces):
    pieces = list(pieces)
    keys, values = torch.cat([k for k, _ in pieces]), torch.cat([v for _, v in pieces])
    return torch.softmax(scores_of(q, keys), dim=1) @ values


def averages_the_pieces(q, pieces):
    results = [torch.softmax(scores_of(q, k), dim=1) @ v for k, v in pieces]
    return sum(results) / len(results)


def adds_the_pieces(q, pieces):
    return sum(torch.softmax(scores_of(q, k), dim=1) @ v for k, v in pieces)


def returns_the_last(q, pieces):
    for k, v in pieces:
        result = torch.softmax(scores_of(q, k), dim=1) @ v
    return result


def gives_a_row_for_each_value(q, pieces):
    return shrinks(q, pieces, True, True).T


def does_not_divide(q, pieces):
    mixed = 0
    for k, v in pieces:
        mixed = mixed + torch.exp(scores_of(q, k)) @ v
    return mixed


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
        (never_shrinks, "must shrink by e^(old - new)"),
        (forgets_the_values, "must shrink with their sum"),
        (forgets_the_sum, "must shrink with the values"),
        (subtracts_nothing, "is infinite in float32"),
        (keeps_the_first_maximum, "of the first piece is not enough"),
        (takes_a_maximum_for_each_piece, "must not replace a larger one"),
        (forgets_the_root, "divided by the root of d"),
        (keeps_every_piece, "each overwrites the one before"),
        (averages_the_pieces, "A mean over the pieces"),
        (adds_the_pieces, "Remember three things"),
        (returns_the_last, "what the last piece gives"),
        (does_not_divide, "The values are off"),
        (gives_a_row_for_each_value, "Expected a tensor of shape"),
        (scores_of, "stops with"),
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
