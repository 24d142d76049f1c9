"""Wrong answers to the exercises of chapter 04, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 04.1

def join(pieces, pair):
    """Join every such pair of neighbours."""
    out = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def only_the_first(word, merges):
    pieces = list(word)
    for a, b in merges:
        for i in range(len(pieces) - 1):
            if (pieces[i], pieces[i + 1]) == (a, b):
                pieces = pieces[:i] + [a + b] + pieces[i + 2:]
                break
    return pieces


def longest_match(word, merges):
    known, pieces, i = {a + b for a, b in merges} | set(word), [], 0
    while i < len(word):
        end = max(j for j in range(i + 1, len(word) + 1) if word[i:j] in known)
        pieces.append(word[i:end])
        i = end
    return pieces


def last_merge_first(word, merges):
    pieces = list(word)
    for pair in reversed(merges):
        pieces = join(pieces, pair)
    return tuple(pieces)


def letters(word, merges):
    return list(word)


def joins_all_with_spaces(word, merges):
    pieces = list(word)
    for pair in merges:
        pieces = join(pieces, pair)
    return " ".join(pieces)


def stops_at_a_merge_that_does_not_occur(word, merges):
    pieces = list(word)
    for pair in merges:
        if (joined := join(pieces, pair)) == pieces:
            break
        pieces = joined
    return tuple(pieces)


# --- 04.2

def cut(images, size):
    """(B, 3, rows, size, columns, size)"""
    return images.unflatten(3, (-1, size)).unflatten(2, (-1, size))


def forgets_to_transpose(images, size):
    return F.unfold(images, size, stride=size)


def goes_down_the_columns(images, size):
    return cut(images, size).permute(0, 4, 2, 1, 3, 5).flatten(3).flatten(1, 2)


def only_reshapes(images, size):
    batch, _, height, width = images.shape
    return images.view(batch, height * width // size**2, 3 * size**2)


def puts_channels_last(images, size):
    return cut(images, size).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def overlaps(images, size):
    return images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def turns_each_patch(images, size):
    return cut(images, size).permute(0, 2, 4, 1, 5, 3).flatten(3).flatten(1, 2)


def keeps_rows_and_columns(images, size):
    return cut(images, size).permute(0, 2, 4, 1, 3, 5).flatten(3)


# --- 04.3

def asks_the_rows(images, texts, logit_scale):
    return -(logit_scale.exp() * images @ texts.T).log_softmax(1).diag().mean()


def asks_the_columns(images, texts, logit_scale):
    return -(logit_scale.exp() * images @ texts.T).log_softmax(0).diag().mean()


def both(logits):
    return -(logits.log_softmax(0) + logits.log_softmax(1)).diag() / 2


def takes_the_logarithm(images, texts, logit_scale):
    return both(logit_scale * images @ texts.T).mean()


def divides(images, texts, logit_scale):
    return both(images @ texts.T / logit_scale.exp()).mean()


def forgets_the_scale(images, texts, logit_scale):
    return both(images @ texts.T).mean()


def adds_both(images, texts, logit_scale):
    return 2 * both(logit_scale.exp() * images @ texts.T).mean()


def adds_over_the_batch(images, texts, logit_scale):
    return both(logit_scale.exp() * images @ texts.T).sum()


def keeps_the_batch(images, texts, logit_scale):
    return both(logit_scale.exp() * images @ texts.T)


def item_of_the_scale(images, texts, logit_scale):
    return both(torch.exp(logit_scale).item() * images @ texts.T).mean()


def log_of_softmax(images, texts, logit_scale):
    logits = logit_scale.exp() * images @ texts.T
    return -(logits.softmax(0).log() + logits.softmax(1).log()).diag().mean() / 2


def forgets_the_logarithm(images, texts, logit_scale):
    logits = logit_scale.exp() * images @ texts.T
    return -(logits.softmax(0) + logits.softmax(1)).diag().mean() / 2


# --- 04.4

def cost(logits):
    return -(logits.log_softmax(0) + logits.log_softmax(1)).diag().mean() / 2


def others(fits):
    return fits & ~torch.eye(len(fits), dtype=torch.bool)


def right(similarity, fits, scale):
    return cost((scale * similarity).masked_fill(others(fits), float("-inf")))


def ignores_fits(similarity, fits, scale):
    return cost(scale * similarity)


def hides_the_rest(similarity, fits, scale):
    return cost((scale * similarity).masked_fill(~fits, float("-inf")))


def multiplies_by_zero(similarity, fits, scale):
    return cost(scale * similarity * ~others(fits))


def masks_rows_alone(similarity, fits, scale):
    logits = scale * similarity
    rows = logits.masked_fill(others(fits), float("-inf")).log_softmax(1).diag()
    return -(rows + logits.log_softmax(0).diag()).mean() / 2


def hides_itself(similarity, fits, scale):
    return cost((scale * similarity).masked_fill(fits, float("-inf")))


def scale_lost(similarity, fits, scale):
    return right(similarity, fits, 1)


def keeps_each_question(similarity, fits, scale):
    logits = (scale * similarity).masked_fill(others(fits), float("-inf"))
    return -(logits.log_softmax(0) + logits.log_softmax(1)).diag() / 2


def without_gradient(similarity, fits, scale):
    with torch.no_grad():
        return right(similarity, fits, scale)


WRONG = {
    "04.1": [(only_the_first, "only where it first occurs"), (longest_match, "in the order learned"),
             (last_merge_first, "run in reverse"), (letters, "for each merge"),
             (joins_all_with_spaces, "for each merge"), (stops_at_a_merge_that_does_not_occur, "for each merge")],
    "04.2": [(forgets_to_transpose, "Expected a tensor of shape"), (goes_down_the_columns, "down the columns"),
             (only_reshapes, "reshape alone"), (puts_channels_last, "channels come first"),
             (overlaps, "One row for each patch"), (turns_each_patch, "each row by row"),
             (keeps_rows_and_columns, "Expected a tensor of shape (2, 9, 48), got a tensor of shape (2, 3, 3, 48)")],
    "04.3": [(asks_the_rows, "which text belongs"), (asks_the_columns, "which image belongs"),
             (takes_the_logarithm, "Take its exp"), (divides, "cross-entropy of the rows"),
             (forgets_the_scale, "cross-entropy of the rows"), (adds_both, "cross-entropy of the rows"),
             (adds_over_the_batch, "over the batch"),
             (keeps_the_batch, "Expected a number, got a tensor"),
             (forgets_the_logarithm, "cross-entropy of the rows"), (log_of_softmax, "use log_softmax"),
             (item_of_the_scale, "no gradient passes")],
    "04.4": [(ignores_fits, "still punished"), (hides_the_rest, "the true negatives"),
             (multiplies_by_zero, "e^0 = 1"), (masks_rows_alone, "columns' as well"),
             (hides_itself, "Leave that one in"), (scale_lost, "before both softmaxes"),
             (keeps_each_question, "Expected a number, got"), (without_gradient, "no gradient passes")],
}
