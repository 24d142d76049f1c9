"""Wrong answers to the exercises of chapter 02, each with a part of its hint."""
import math

import torch
import torch.nn.functional as F

# --- 02.1

def rates(beta, alpha_bar_prev):
    return 1 - beta, (1 - beta) * alpha_bar_prev


def takes_the_forward_variance(x0, x_t, beta, alpha_bar_prev):
    precision = (1 - beta) / beta + 1 / (1 - alpha_bar_prev)
    mean = (math.sqrt(1 - beta) / beta * x_t + math.sqrt(alpha_bar_prev) / (1 - alpha_bar_prev) * x0) / precision
    return mean, beta


def returns_the_deviation(x0, x_t, beta, alpha_bar_prev):
    precision = (1 - beta) / beta + 1 / (1 - alpha_bar_prev)
    mean = (math.sqrt(1 - beta) / beta * x_t + math.sqrt(alpha_bar_prev) / (1 - alpha_bar_prev) * x0) / precision
    return mean, 1 / math.sqrt(precision)


def forgets_to_invert(x0, x_t, beta, alpha_bar_prev):
    precision = (1 - beta) / beta + 1 / (1 - alpha_bar_prev)
    weighted = math.sqrt(1 - beta) / beta * x_t + math.sqrt(alpha_bar_prev) / (1 - alpha_bar_prev) * x0
    return weighted / precision, precision


def takes_the_level_of_t(x0, x_t, beta, alpha_bar_prev):
    alpha, alpha_bar = rates(beta, alpha_bar_prev)
    precision = alpha / beta + 1 / (1 - alpha_bar)
    return (alpha**0.5 * x_t / beta + alpha_bar**0.5 * x0 / (1 - alpha_bar)) / precision, 1 / precision


def swaps_x0_and_x_t(x0, x_t, beta, alpha_bar_prev):
    alpha, alpha_bar = rates(beta, alpha_bar_prev)
    mean = alpha_bar_prev**0.5 * beta / (1 - alpha_bar) * x_t + alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar) * x0
    return mean, beta * (1 - alpha_bar_prev) / (1 - alpha_bar)


def forgets_the_roots(x0, x_t, beta, alpha_bar_prev):
    precision = (1 - beta) / beta + 1 / (1 - alpha_bar_prev)
    return ((1 - beta) * x_t / beta + alpha_bar_prev * x0 / (1 - alpha_bar_prev)) / precision, 1 / precision


def returns_the_mean_alone(x0, x_t, beta, alpha_bar_prev):
    return returns_the_deviation(x0, x_t, beta, alpha_bar_prev)[0]


# --- 02.2

def adds_the_noise_again(x_t, eps, t, alpha_bar):
    a = alpha_bar[t]
    return (x_t + torch.sqrt(1 - a) * eps) / torch.sqrt(a)


def only_subtracts(x_t, eps, t, alpha_bar):
    return x_t - eps * torch.sqrt(1 - alpha_bar[t])


def divides_by_the_variance(x_t, eps, t, alpha_bar):
    a = float(alpha_bar[t])
    return (x_t - (1 - a) ** 0.5 * eps) / a


def subtracts_the_variance(x_t, eps, t, alpha_bar):
    a = float(alpha_bar[t])
    return (x_t - (1 - a) * eps) / a**0.5


def takes_alpha(x_t, eps, t, alpha_bar):
    alpha = alpha_bar[t] / alpha_bar[t - 1]
    return (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt()


def averages(x_t, eps, t, alpha_bar):
    return ((x_t - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()).mean(0)


def works_in_place(x_t, eps, t, alpha_bar):
    x_t -= (1 - alpha_bar[t]).sqrt() * eps
    return x_t / alpha_bar[t].sqrt()


# --- 02.3

def estimate(x, eps, level):
    return (x - math.sqrt(1 - level) * eps) / math.sqrt(level)


def stops_at_x0(x_t, eps, alpha_bar, alpha_bar_prev):
    return estimate(x_t, eps, alpha_bar)


def goes_the_wrong_way(x_t, eps, alpha_bar, alpha_bar_prev):
    return math.sqrt(alpha_bar) * estimate(x_t, eps, alpha_bar_prev) + math.sqrt(1 - alpha_bar) * eps


def noises_x_t(x_t, eps, alpha_bar, alpha_bar_prev):
    return math.sqrt(alpha_bar_prev) * x_t + math.sqrt(1 - alpha_bar_prev) * eps


def keeps_the_old_noise(x_t, eps, alpha_bar, alpha_bar_prev):
    return math.sqrt(alpha_bar_prev) * estimate(x_t, eps, alpha_bar) + math.sqrt(1 - alpha_bar) * eps


def subtracts_the_noise(x_t, eps, alpha_bar, alpha_bar_prev):
    return math.sqrt(alpha_bar_prev) * estimate(x_t, eps, alpha_bar) - math.sqrt(1 - alpha_bar_prev) * eps


def forgets_the_last_root(x_t, eps, alpha_bar, alpha_bar_prev):
    return math.sqrt(alpha_bar_prev) * estimate(x_t, eps, alpha_bar) + (1 - alpha_bar_prev) * eps


def returns_both(x_t, eps, alpha_bar, alpha_bar_prev):
    x0 = estimate(x_t, eps, alpha_bar)
    return math.sqrt(alpha_bar_prev) * x0 + math.sqrt(1 - alpha_bar_prev) * eps, x0


# --- 02.4

def q_sample(x0, t, eps, alpha_bar):
    return torch.stack([a.sqrt() * x + (1 - a).sqrt() * e for x, e, a in zip(x0, eps, alpha_bar[t])])


def sums(model, x0, t, eps, alpha_bar):
    return F.mse_loss(model(q_sample(x0, t, eps, alpha_bar), t), eps, reduction="sum")


def asks_for_x0(model, x0, t, eps, alpha_bar):
    return F.mse_loss(model(q_sample(x0, t, eps, alpha_bar), t), x0)


def shows_the_answer(model, x0, t, eps, alpha_bar):
    return F.mse_loss(model(x0, t), eps)


def takes_the_absolute_error(model, x0, t, eps, alpha_bar):
    return F.l1_loss(model(q_sample(x0, t, eps, alpha_bar), t), eps)


def squares_the_mean(model, x0, t, eps, alpha_bar):
    return (model(q_sample(x0, t, eps, alpha_bar), t) - eps).mean() ** 2


def weighs_by_the_snr(model, x0, t, eps, alpha_bar):
    error = (model(q_sample(x0, t, eps, alpha_bar), t) - eps) ** 2
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    return torch.mean(snr * error.mean(dim=1))


def keeps_the_rows(model, x0, t, eps, alpha_bar):
    return ((model(q_sample(x0, t, eps, alpha_bar), t) - eps) ** 2).mean(dim=1)


WRONG = {
    "02.1": [
        (takes_the_forward_variance, "which narrows it"),
        (returns_the_deviation, "You return the standard deviation"),
        (forgets_to_invert, "You return 1 over the variance"),
        (takes_the_level_of_t, "alpha_bar at t - 1"),
        (swaps_x0_and_x_t, "x_0 and x_t are swapped"),
        (forgets_the_roots, "take the roots"),
        (returns_the_mean_alone, "Expected 2 results, got a tensor of shape (5, 2)"),
    ],
    "02.2": [
        (adds_the_noise_again, "x_t contains it already"),
        (only_subtracts, "still shrunk by the forward process"),
        (divides_by_the_variance, "You divide by ᾱ_t"),
        (subtracts_the_variance, "eps was multiplied by its root"),
        (takes_alpha, "That undoes one step"),
        (averages, "Expected a tensor of shape (2, 3, 4, 4), got a tensor of shape (3, 4, 4)"),
        (works_in_place, "changes its arguments"),
    ],
    "02.3": [
        (stops_at_x0, "Go back up to the new level"),
        (goes_the_wrong_way, "this adds noise"),
        (noises_x_t, "which is noisy already"),
        (keeps_the_old_noise, "still at the old one"),
        (subtracts_the_noise, "not subtracted again"),
        (forgets_the_last_root, "The values are off"),
        (returns_both, "Expected a tensor of shape (4, 2), got a tuple of 2"),
    ],
    "02.4": [
        (sums, "must not depend on the batch size"),
        (asks_for_x0, "You compare the prediction with x0"),
        (shows_the_answer, "without any noise to predict"),
        (takes_the_absolute_error, "square the differences"),
        (squares_the_mean, "errors can cancel"),
        (weighs_by_the_snr, "L_simple drops the weights"),
        (keeps_the_rows, "Expected a number, got a tensor of shape (6,)"),
    ],
}
