"""Wrong answers to the exercises of chapter 07, each with a part of its hint."""
import math

import torch

# --- 07.1


def sigma_of(alpha_bar):
    return (1 / alpha_bar - 1) ** 0.5


def climbs(x, eps, alpha_bar, alpha_bar_next):
    y = x * alpha_bar ** -0.5
    return (y - (sigma_of(alpha_bar_next) - sigma_of(alpha_bar)) * eps) * alpha_bar_next ** 0.5


def stays_in_x(x, eps, alpha_bar, alpha_bar_next):
    return x + eps * (sigma_of(alpha_bar_next) - sigma_of(alpha_bar))


def returns_y(x, eps, alpha_bar, alpha_bar_next):
    return x / alpha_bar ** 0.5 - (sigma_of(alpha_bar) - sigma_of(alpha_bar_next)) * eps


def goes_back_by_the_old_level(x, eps, alpha_bar, alpha_bar_next):
    y = x / alpha_bar ** 0.5 + (sigma_of(alpha_bar_next) - sigma_of(alpha_bar)) * eps
    return alpha_bar ** 0.5 * y


def takes_x_for_y(x, eps, alpha_bar, alpha_bar_next):
    return alpha_bar_next ** 0.5 * (x + (sigma_of(alpha_bar_next) - sigma_of(alpha_bar)) * eps)


def takes_the_noise_in_x(x, eps, alpha_bar, alpha_bar_next):
    sigma, sigma_next = (1 - alpha_bar) ** 0.5, (1 - alpha_bar_next) ** 0.5
    return alpha_bar_next ** 0.5 * (x / alpha_bar ** 0.5 + (sigma_next - sigma) * eps)


def forgets_the_root(x, eps, alpha_bar, alpha_bar_next):
    sigma, sigma_next = 1 / alpha_bar - 1, 1 / alpha_bar_next - 1
    return alpha_bar_next ** 0.5 * (x / alpha_bar ** 0.5 + (sigma_next - sigma) * eps)


def jumps_to_the_end(x, eps, alpha_bar, alpha_bar_next):
    return x / alpha_bar ** 0.5 - sigma_of(alpha_bar) * eps


def takes_the_ratio_of_levels(x, eps, alpha_bar, alpha_bar_next):
    return (alpha_bar_next / alpha_bar) ** 0.5 * x - (1 - alpha_bar) ** 0.5 * eps


def gives_both(x, eps, alpha_bar, alpha_bar_next):
    return x, eps


# --- 07.2

def looks_to_the_end(x0, before, sigma_before, sigma, sigma_next):
    r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
    return x0 + (x0 - before) / r


def looks_back(x0, before, sigma_before, sigma, sigma_next):
    r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
    return x0 + (before - x0) / (2 * r)


def does_not_look(x0, before, sigma_before, sigma, sigma_next):
    return x0.clone()


def measures_in_sigma(x0, before, sigma_before, sigma, sigma_next):
    return x0 + (x0 - before) * (sigma - sigma_next) / (sigma_before - sigma) / 2


def turns_the_ratio(x0, before, sigma_before, sigma, sigma_next):
    r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
    return x0 + (x0 - before) * r / 2


def believes_in_equal_steps(x0, before, sigma_before, sigma, sigma_next):
    return 1.5 * x0 - 0.5 * before


def averages(x0, before, sigma_before, sigma, sigma_next):
    return torch.stack([x0, before]).mean(0)


def begins_before(x0, before, sigma_before, sigma, sigma_next):
    r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
    return before + (x0 - before) / (2 * r)


def takes_squares(x0, before, sigma_before, sigma, sigma_next):
    return x0 + (x0 - before) * (sigma**2 - sigma_next**2) / (sigma_before**2 - sigma**2) / 2


def gives_the_length(x0, before, sigma_before, sigma, sigma_next):
    return math.log(sigma / sigma_next) / 2


# --- 07.3

def turns_the_spreads(guided_x0, cond_x0, phi):
    wide = guided_x0.std((1, 2, 3), keepdim=True) / cond_x0.std((1, 2, 3), keepdim=True)
    return phi * wide * guided_x0 + (1 - phi) * guided_x0


def takes_the_batch(guided_x0, cond_x0, phi):
    return guided_x0 * (phi * cond_x0.std() / guided_x0.std() + 1 - phi)


def takes_each_channel(guided_x0, cond_x0, phi):
    ratio = cond_x0.flatten(2).std(2) / guided_x0.flatten(2).std(2)
    return guided_x0 * (phi * ratio[..., None, None] + 1 - phi)


def takes_the_variance(guided_x0, cond_x0, phi):
    ratio = cond_x0.var((1, 2, 3), keepdim=True) / guided_x0.var((1, 2, 3), keepdim=True)
    return guided_x0 * (phi * ratio + 1 - phi)


def swaps_phi(guided_x0, cond_x0, phi):
    ratio = cond_x0.std((1, 2, 3), keepdim=True) / guided_x0.std((1, 2, 3), keepdim=True)
    return guided_x0 * ((1 - phi) * ratio + phi)


def ignores_phi(guided_x0, cond_x0, phi):
    return guided_x0 * cond_x0.std((1, 2, 3), keepdim=True) / guided_x0.std((1, 2, 3), keepdim=True)


def mixes_the_two(guided_x0, cond_x0, phi):
    return guided_x0.lerp(cond_x0, phi)


def forgets_the_rest(guided_x0, cond_x0, phi):
    return phi * ignores_phi(guided_x0, cond_x0, phi)


def takes_the_mean_square(guided_x0, cond_x0, phi):
    cond, wide = (part.square().mean((1, 2, 3), keepdim=True).sqrt() for part in (cond_x0, guided_x0))
    return guided_x0 * (phi * cond / wide + 1 - phi) + 0.1


def keeps_the_mean(guided_x0, cond_x0, phi):
    mean = guided_x0.mean((1, 2, 3), keepdim=True)
    ratio = cond_x0.std((1, 2, 3), keepdim=True) / guided_x0.std((1, 2, 3), keepdim=True)
    return (guided_x0 - mean) * (phi * ratio + 1 - phi) + mean


def gives_the_spreads(guided_x0, cond_x0, phi):
    return cond_x0.std((1, 2, 3)) / guided_x0.std((1, 2, 3))


# --- 07.4

def angle(a, b):
    return torch.arccos(a.flatten() @ b.flatten() / (a.norm() * b.norm()))


def goes_straight(a, b, u):
    return torch.lerp(a, b, u)


def swaps_the_ends(a, b, u):
    theta = angle(a, b)
    return (torch.sin(u * theta) * a + torch.sin((1 - u) * theta) * b) / torch.sin(theta)


def forgets_the_sine(a, b, u):
    theta = angle(a, b)
    return torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b


def forgets_the_lengths(a, b, u):
    theta = torch.arccos((a * b).sum().clamp(-1, 1))
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def stretches(a, b, u):
    c = a + u * (b - a)
    return c * a.norm() / c.norm()


def takes_roots(a, b, u):
    return (1 - u) ** 0.5 * a + u ** 0.5 * b


def takes_rows(a, b, u):
    theta = torch.arccos(torch.nn.functional.cosine_similarity(a, b, dim=-1))[..., None]
    return (torch.sin((1 - u) * theta) * a + torch.sin(u * theta) * b) / torch.sin(theta)


def takes_cosines(a, b, u):
    theta = angle(a, b)
    return torch.cos(u * theta) * a + torch.sin(u * theta) * b


def gives_the_angle(a, b, u):
    return u * angle(a, b)


def preserves_the_variance(a, b, u):
    return torch.lerp(a, b, u) / math.hypot(1 - u, u)


def takes_a_right_angle(a, b, u):
    return math.cos(u * math.pi / 2) * a + math.sin(u * math.pi / 2) * b


WRONG = {
    "07.1": [
        (climbs, "The sign is wrong: you add noise"),
        (stays_in_x, "You step in x"),
        (returns_y, "You return y, not x"),
        (goes_back_by_the_old_level, "of the old level"),
        (takes_x_for_y, "you begin with x instead of y"),
        (takes_the_noise_in_x, "the noise in x"),
        (forgets_the_root, "You forget the root"),
        (jumps_to_the_end, "You remove all of the noise"),
        (takes_the_ratio_of_levels, "The values are off"),
        (gives_both, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
    ],
    "07.2": [
        (looks_to_the_end, "to the end of the step"),
        (looks_back, "you look back"),
        (does_not_look, "that is Euler's step"),
        (measures_in_sigma, "The clock is wrong"),
        (turns_the_ratio, "The ratio is upside down"),
        (believes_in_equal_steps, "both steps to be equally long"),
        (averages, "You average the two predictions"),
        (begins_before, "You begin at `before`"),
        (takes_squares, "The values are off"),
        (gives_the_length, "Expected a tensor of shape (2, 4, 3, 3), got a number"),
    ],
    "07.3": [
        (turns_the_spreads, "you make the wide one wider"),
        (takes_the_batch, "That is the spread of the batch"),
        (takes_each_channel, "a spread for each channel"),
        (takes_the_variance, "You take the variance"),
        (swaps_phi, "are swapped"),
        (ignores_phi, "φ is not used"),
        (mixes_the_two, "You mix the two x0"),
        (forgets_the_rest, "You forget to add"),
        (takes_the_mean_square, "The values are off"),
        (keeps_the_mean, "You hold the mean in place"),
        (gives_the_spreads, "Expected a tensor of shape (3, 4, 5, 5), got a tensor of shape (3,)"),
    ],
    "07.4": [
        (goes_straight, "That is the straight line"),
        (swaps_the_ends, "a and b are swapped"),
        (forgets_the_sine, "You forget to divide by sin θ"),
        (forgets_the_lengths, "Divide it by both lengths first"),
        (stretches, "You stretch the straight line"),
        (takes_roots, "right only for a and b at right angles"),
        (takes_rows, "an angle for each row"),
        (preserves_the_variance, "You divide the straight line by"),
        (takes_a_right_angle, "You take θ for 90°"),
        (takes_cosines, "The values are off"),
        (gives_the_angle, "Expected a tensor of shape (4, 3, 3), got a number"),
    ],
}
