"""Wrong answers to the exercises of chapter 04, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 04.1

def looks_ahead(n):
    return torch.triu(torch.ones(n, n)).bool()


def sees_not_itself(n):
    i = torch.arange(n)
    return i[None, :] < i[:, None]


def marks_what_is_hidden(n):
    return torch.triu(torch.ones(n, n), diagonal=1) > 0


def hides_nothing(n):
    return torch.full((n, n), True)


def sees_the_next(n):
    i = torch.arange(n)
    return i[None, :] <= i[:, None] + 1


def adds_infinities(n):
    return torch.triu(torch.full((n, n), float("-inf")), diagonal=1)


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


def forgets_the_logarithm(images, texts, logit_scale):
    logits = logit_scale.exp() * images @ texts.T
    return -(logits.softmax(0) + logits.softmax(1)).diag().mean() / 2


# --- 04.4

def above(similarity, dim=1):
    """How many are nearer than the true one."""
    true = similarity.diag()
    return (similarity > (true[:, None] if dim == 1 else true[None])).sum(dim)


def looks_down_the_columns(similarity, k):
    return (above(similarity, dim=0) < k).float().mean()


def ignores_k(similarity, k):
    return (similarity.argmax(1) == torch.arange(len(similarity))).float().mean()


def takes_the_lowest(similarity, k):
    return (similarity.argsort(1)[:, :k] == torch.arange(len(similarity))[:, None]).any(1).float().mean()


def one_too_many(similarity, k):
    return (above(similarity) <= k).float().mean()


def counts(similarity, k):
    return float((above(similarity) < k).sum())


def returns_each_row(similarity, k):
    return above(similarity) < k


WRONG = {
    "04.1": [(looks_ahead, "Transposed"), (sees_not_itself, "A token must see itself"),
             (marks_what_is_hidden, "You mark what is hidden"), (hides_nothing, "You hide nothing"),
             (sees_the_next, "One token too many"),
             (adds_infinities, "Expected a boolean tensor of shape (4, 4), got")],
    "04.2": [(forgets_to_transpose, "Patches and pixels are swapped"), (goes_down_the_columns, "down the columns"),
             (only_reshapes, "reshape alone"), (puts_channels_last, "channels come first"),
             (overlaps, "Your patches overlap"), (turns_each_patch, "Rows and columns within a patch"),
             (keeps_rows_and_columns, "Expected a tensor of shape (2, 9, 48), got a tensor of shape (2, 3, 3, 48)")],
    "04.3": [(asks_the_rows, "which text belongs"), (asks_the_columns, "which image belongs"),
             (takes_the_logarithm, "Take its exp"), (divides, "1 / temperature already"),
             (forgets_the_scale, "The scale is not used"), (adds_both, "Take their mean"),
             (adds_over_the_batch, "over the batch"),
             (keeps_the_batch, "Expected a number, got a tensor"),
             (forgets_the_logarithm, "cross-entropy of the rows")],
    "04.4": [(looks_down_the_columns, "down the columns"), (ignores_k, "always R@1"),
             (takes_the_lowest, "k lowest"), (one_too_many, "at most k - 1"), (counts, "You return a count"),
             (returns_each_row, "Expected a number")],
}
