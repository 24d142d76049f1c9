"""Wrong answers to the exercises of chapter 04, each with a part of its hint."""
import math

import torch
import torch.nn.functional as F

# --- 04.1

def same_caption(lengths):
    caption = torch.tensor([k for k, n in enumerate(lengths) for _ in range(n)])
    return caption[:, None] == caption


def positions(lengths):
    return torch.tensor([i for n in lengths for i in range(n)])


def sees_captions_before(lengths):
    total = sum(lengths)
    return torch.arange(total)[:, None] >= torch.arange(total), positions(lengths)


def sees_the_future(lengths):
    return same_caption(lengths), positions(lengths)


def looks_the_other_way(lengths):
    return same_caption(lengths).triu(), positions(lengths)


def true_where_hidden(lengths):
    return ~same_caption(lengths).tril(), positions(lengths)


def not_at_itself(lengths):
    return same_caption(lengths).tril(-1), positions(lengths)


def positions_run_on(lengths):
    return same_caption(lengths).tril(), torch.arange(sum(lengths))


def positions_from_one(lengths):
    return same_caption(lengths).tril(), positions(lengths) + 1


def an_additive_mask(lengths):
    hidden = ~same_caption(lengths).tril()
    return torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")), positions(lengths)


def the_mask_alone(lengths):
    return same_caption(lengths).tril()


def captions_for_positions(lengths):
    return same_caption(lengths).tril(), torch.tensor([k for k, n in enumerate(lengths) for _ in range(n)])


# --- 04.2

def unit(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


def both(logits):
    return -(logits.log_softmax(0) + logits.log_softmax(1)).diag() / 2


def as_it_was(images, texts, logit_scale):
    images, texts = images / images.norm(dim=0), texts / texts.norm(dim=0)
    logits = logit_scale.exp().item() * images @ texts.T
    rows, columns = logits.softmax(1), logits.T.softmax(0)
    return -(rows.diag().log() + columns.diag().log()).sum() / 2


def norm_over_the_batch(images, texts, logit_scale):
    return both(logit_scale.exp() * (images / images.norm(dim=0)) @ (texts / texts.norm(dim=0)).T).mean()


def norm_over_the_batch_and_sum(images, texts, logit_scale):
    return both(logit_scale.exp() * (images / images.norm(dim=0)) @ (texts / texts.norm(dim=0)).T).sum()


def any_length(images, texts, logit_scale):
    return both(logit_scale.exp() * images @ texts.T).mean()


def asks_the_rows_twice(images, texts, logit_scale):
    logits = logit_scale.exp() * unit(images) @ unit(texts).T
    return -(logits.log_softmax(1).diag() + logits.T.log_softmax(0).diag()).mean() / 2


def asks_the_columns(images, texts, logit_scale):
    return -(logit_scale.exp() * unit(images) @ unit(texts).T).log_softmax(0).diag().mean()


def adds_over_the_batch(images, texts, logit_scale):
    return both(logit_scale.exp() * unit(images) @ unit(texts).T).sum()


def item_of_the_scale(images, texts, logit_scale):
    return both(logit_scale.exp().item() * unit(images) @ unit(texts).T).mean()


def log_of_softmax(images, texts, logit_scale):
    logits = logit_scale.exp() * unit(images) @ unit(texts).T
    return -(logits.softmax(0).log() + logits.softmax(1).log()).diag().mean() / 2


def log_of_softmax_and_a_bit(images, texts, logit_scale):
    logits = logit_scale.exp() * unit(images) @ unit(texts).T
    return -((logits.softmax(0) + 1e-8).log() + (logits.softmax(1) + 1e-8).log()).diag().mean() / 2


def length_without_a_gradient(images, texts, logit_scale):
    images, texts = images / images.detach().norm(dim=1, keepdim=True), texts / texts.detach().norm(dim=1, keepdim=True)
    return both(logit_scale.exp() * images @ texts.T).mean()


def keeps_the_batch(images, texts, logit_scale):
    return both(logit_scale.exp() * unit(images) @ unit(texts).T)


def takes_the_logarithm(images, texts, logit_scale):
    return both(logit_scale * unit(images) @ unit(texts).T).mean()


# --- 04.3

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


# --- 04.4

def bound(batch, scale, least):
    return math.log(1 + (batch - 1) * math.exp(scale * (least - 1)))


def right_angles(batch, loss):
    return math.log((batch - 1) / (math.exp(loss) - 1))


def opposite(batch, loss):
    return math.log((batch - 1) / (math.exp(loss) - 1)) / 2


def one_over_b(batch, loss):
    return math.log((batch - 1) / (math.exp(loss) - 1)) / (1 + 1 / batch)


def b_wrong_answers(batch, loss):
    return math.log(batch / (math.exp(loss) - 1)) * (batch - 1) / batch


def forgets_the_right_answer(batch, loss):
    return (math.log(batch - 1) - loss) * (batch - 1) / batch


def temperature(batch, loss):
    return batch / (batch - 1) / math.log((batch - 1) / (math.exp(loss) - 1))


def logit_scale(batch, loss):
    return math.log(math.log((batch - 1) / (math.exp(loss) - 1)) * (batch - 1) / batch)


def loss_at_the_scale(batch, loss):
    return bound(batch, loss, -1 / (batch - 1))


def whole_numbers(batch, loss):
    return next(s for s in range(1000) if bound(batch, s, -1 / (batch - 1)) <= loss)


def a_vector(batch, loss):
    return F.one_hot(torch.tensor(1), 2).float()


WRONG = {
    "04.1": [(sees_captions_before, "captions before it"), (sees_the_future, "what comes after it"),
             (looks_the_other_way, "transposed"), (true_where_hidden, "True means that it may"),
             (not_at_itself, "look at itself"), (positions_run_on, "run through the row"),
             (positions_from_one, "from 0"), (captions_for_positions, "start again with every caption"),
             (an_additive_mask, "Expected a boolean tensor"), (the_mask_alone, "Expected 2 results")],
    "04.2": [(as_it_was, "Ask of each line"), (norm_over_the_batch, "runs over the batch"),
             (norm_over_the_batch_and_sum, "two faults are left"), (any_length, "no cosines"),
             (asks_the_rows_twice, "asked twice"), (asks_the_columns, "columns alone"),
             (adds_over_the_batch, "over the batch"), (item_of_the_scale, "no gradient passes"),
             (log_of_softmax, "infinite"), (log_of_softmax_and_a_bit, "Ask of each line"),
             (length_without_a_gradient, "their gradient is not"),
             (keeps_the_batch, "Expected a number, got a tensor"), (takes_the_logarithm, "Ask of each line")],
    "04.3": [(ignores_fits, "still punished"), (hides_the_rest, "the true negatives"),
             (multiplies_by_zero, "e^0 = 1"), (masks_rows_alone, "columns' as well"),
             (hides_itself, "Leave that one in"), (scale_lost, "before both softmaxes"),
             (keeps_each_question, "Expected a number, got"), (without_gradient, "no gradient passes")],
    "04.4": [(right_angles, "right angles"), (opposite, "opposite directions"), (one_over_b, "Solve it for s"),
             (b_wrong_answers, "not B"), (forgets_the_right_answer, "in the denominator"),
             (temperature, "one over it"), (logit_scale, "its exp"), (loss_at_the_scale, "Solve for the scale"),
             (whole_numbers, "Solve it for s"), (a_vector, "Expected a number")],
}
