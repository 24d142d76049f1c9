"""Wrong answers to the exercises of chapter 08, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 08.1

def noise_to_signal(alpha_bar, t):
    return (1 - alpha_bar[t]) / alpha_bar[t]


def compares_amplitudes(times, alpha_bar, ratio):
    return len([t for t in times if noise_to_signal(alpha_bar, t) ** 0.5 <= ratio]) / len(times)


def squares_the_ratio_again(times, alpha_bar, ratio):
    return len([t for t in times if noise_to_signal(alpha_bar, t) ** 2 <= ratio]) / len(times)


def forgets_that_the_picture_shrinks(times, alpha_bar, ratio):
    return len([t for t in times if 1 - alpha_bar[t] <= ratio]) / len(times)


def compares_signal_to_noise(times, alpha_bar, ratio):
    return len([t for t in times if 1 / noise_to_signal(alpha_bar, t) <= ratio]) / len(times)


def gives_what_is_left_out(times, alpha_bar, ratio):
    return len([t for t in times if noise_to_signal(alpha_bar, t) > ratio]) / len(times)


def gives_the_number_of_steps(times, alpha_bar, ratio):
    return len([t for t in times if noise_to_signal(alpha_bar, t) <= ratio])


def gives_the_time(times, alpha_bar, ratio):
    return next((t for t in times if noise_to_signal(alpha_bar, t) <= ratio), 0) / 1000


def takes_the_last_one_left_out(times, alpha_bar, ratio):
    return (sum(noise_to_signal(alpha_bar, t) <= ratio for t in times) + 1) / len(times)


def leaves_out_the_first_one_left(times, alpha_bar, ratio):
    return (sum(noise_to_signal(alpha_bar, t) <= ratio for t in times) - 1) / len(times)


def gives_the_times(times, alpha_bar, ratio):
    return [t for t in times if noise_to_signal(alpha_bar, t) <= ratio]


def always_takes_half(times, alpha_bar, ratio):
    return 0.5


# --- 08.2

def starts_twice(e_u, e_image, e_both, s_image, s_text):
    return (e_u + s_image * (e_image - e_u)) + (e_u + s_text * (e_both - e_image))


def adds_the_noises(e_u, e_image, e_both, s_image, s_text):
    return e_u + s_image * e_image + s_text * e_both


def starts_from_nothing(e_u, e_image, e_both, s_image, s_text):
    return s_image * (e_image - e_u) + s_text * (e_both - e_image)


def swaps_the_scales(e_u, e_image, e_both, s_image, s_text):
    return e_u + s_text * (e_image - e_u) + s_image * (e_both - e_image)


def believes_in_independence(e_u, e_image, e_both, s_image, s_text):
    return (1 - s_image - s_text) * e_u + s_image * e_image + s_text * e_both


def starts_at_the_image(e_u, e_image, e_both, s_image, s_text):
    return (1 - s_text) * e_image + s_text * e_both


def turns_the_last(e_u, e_image, e_both, s_image, s_text):
    return e_u + s_image * (e_image - e_u) + s_text * (e_image - e_both)


def leads_away(e_u, e_image, e_both, s_image, s_text):
    return e_u - s_image * (e_image - e_u) - s_text * (e_both - e_image)


def multiplies_the_scales(e_u, e_image, e_both, s_image, s_text):
    return e_u + s_image * (e_image - e_u) + s_image * s_text * (e_both - e_image)


def gives_one_number(e_u, e_image, e_both, s_image, s_text):
    return (e_u + s_image * (e_image - e_u) + s_text * (e_both - e_image)).mean()


# --- 08.3

def noised(z_0, noise, a):
    return a**0.5 * z_0 + (1 - a) ** 0.5 * noise


def cells_of(mask):
    """1 where any of the 8 x 8 pixels is masked: (B, 1, h, w)."""
    b, c, height, width = mask.shape
    return mask.view(b, c, height // 8, 8, width // 8, 8).amax((3, 5))


def paints_outside(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, noised(z_0, noise, alpha_bar_next), x)


def puts_the_clean_one(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, z_0)


def puts_noise(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, noise)


def blends_variances(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, alpha_bar_next * z_0 + (1 - alpha_bar_next) * noise)


def swaps_signal_and_noise(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, noised(z_0, noise, 1 - alpha_bar_next))


def adds_on_top(x, z_0, noise, mask, alpha_bar_next):
    return x + (1 - cells_of(mask)) * noised(z_0, noise, alpha_bar_next)


def blends_fresh_noise(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, noised(z_0, torch.randn(z_0.shape), alpha_bar_next))


def blends_without_shrinking(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(cells_of(mask) > 0, x, z_0 + (1 / alpha_bar_next - 1) ** 0.5 * noise)


def looks_at_the_corner(x, z_0, noise, mask, alpha_bar_next):
    corner = F.interpolate(mask, x.shape[2:], mode="nearest")
    return torch.where(corner > 0, x, noised(z_0, noise, alpha_bar_next))


def softens_the_mask(x, z_0, noise, mask, alpha_bar_next):
    return torch.lerp(noised(z_0, noise, alpha_bar_next), x, F.interpolate(mask, x.shape[2:], mode="area"))


def paints_whole_cells_only(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(F.avg_pool2d(mask, 8) == 1, x, noised(z_0, noise, alpha_bar_next))


def rounds_the_mask(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(F.avg_pool2d(mask, 8) > 0.49, x, noised(z_0, noise, alpha_bar_next))


def keeps_x(x, z_0, noise, mask, alpha_bar_next):
    return x.clone()


def gives_the_masked_part(x, z_0, noise, mask, alpha_bar_next):
    return x[..., 1:4, 1:3]


# --- 08.4

def clean(x, e, a):
    return (x - (1 - a) ** 0.5 * e) / a**0.5


def steps_down(x, eps, below, above, iterations):
    guess = x
    for _ in range(iterations + 1):
        guess = noised(clean(x, eps(guess), above), eps(guess), below)
    return guess


def never_asks_again(x, eps, below, above, iterations):
    return noised(clean(x, eps(x), below), eps(x), above)


def climbs_on(x, eps, below, above, iterations):
    for _ in range(iterations + 1):
        e = eps(x)
        x = noised(clean(x, e, below), e, above)
    return x


def asks_once_too_seldom(x, eps, below, above, iterations):
    guess = x
    for _ in range(iterations):
        e = eps(guess)
        guess = noised(clean(x, e, below), e, above)
    return guess


def asks_once_too_often(x, eps, below, above, iterations):
    guess = x
    for _ in range(iterations + 2):
        e = eps(guess)
        guess = noised(clean(x, e, below), e, above)
    return guess


def _iterated(step):
    def answer(x, eps, below, above, iterations):
        guess = x
        for _ in range(iterations + 1):
            guess = step(x, eps(guess), below, above)
        return guess
    return answer


stops_half_way = _iterated(lambda x, e, below, above: clean(x, e, below))
adds_all_of_e = _iterated(lambda x, e, below, above: above**0.5 * clean(x, e, below) + e)
takes_x_for_clean = _iterated(lambda x, e, below, above: noised(x, e, above))
takes_variances = _iterated(lambda x, e, below, above: above * clean(x, e, below) + (1 - above) * e)
swaps_the_factors = _iterated(lambda x, e, below, above: (1 - above)**0.5 * clean(x, e, below) + above**0.5 * e)
adds_sigma = _iterated(lambda x, e, below, above: clean(x, e, below) + ((1 - above) / above)**0.5 * e)
draws_noise = _iterated(lambda x, e, below, above: noised(clean(x, e, below), torch.randn(x.shape), above))
forgets_the_noise_above = _iterated(lambda x, e, below, above: above**0.5 * clean(x, e, below))
turns_round = _iterated(lambda x, e, below, above: noised(clean(x, e, below), e, below))


def gives_two(x, eps, below, above, iterations):
    e = eps(x)
    return noised(clean(x, e, below), e, above), clean(x, e, below)


WRONG = {
    "08.1": [
        (compares_amplitudes, "a ratio of amplitudes"),
        (squares_the_ratio_again, "The values are off"),
        (forgets_that_the_picture_shrinks, "power at t is ᾱ, not 1"),
        (compares_signal_to_noise, "signal over noise"),
        (gives_what_is_left_out, "the share left out"),
        (gives_the_number_of_steps, "the number of steps"),
        (gives_the_time, "The values are off"),
        (takes_the_last_one_left_out, "a step too noisy"),
        (leaves_out_the_first_one_left, "one step more"),
        (gives_the_times, "Expected a number, got a list"),
        (always_takes_half, "The values are off"),
    ],
    "08.2": [
        (starts_twice, "added twice"),
        (adds_the_noises, "You add the predicted noises"),
        (starts_from_nothing, "You forget to start"),
        (swaps_the_scales, "The two scales are swapped"),
        (believes_in_independence, "as if the conditions were independent"),
        (starts_at_the_image, "You start at the image's prediction"),
        (turns_the_last, "the wrong way round"),
        (leads_away, "The values are off"),
        (multiplies_the_scales, "The values are off"),
        (gives_one_number, "Expected a tensor of shape (2, 4, 3, 3), got a number"),
    ],
    "08.3": [
        (paints_outside, "Inside and outside are swapped"),
        (puts_the_clean_one, "You put the clean latent back"),
        (puts_noise, "You put the noise back"),
        (blends_variances, "The roots are missing"),
        (swaps_signal_and_noise, "Signal and noise are swapped"),
        (adds_on_top, "on top of x"),
        (blends_fresh_noise, "You draw fresh noise"),
        (blends_without_shrinking, "do not shrink the picture"),
        (looks_at_the_corner, "one pixel of each cell"),
        (softens_the_mask, "the mean of the mask"),
        (paints_whole_cells_only, "masked as a whole"),
        (rounds_the_mask, "most of its pixels"),
        (keeps_x, "The values are off"),
        (gives_the_masked_part, "Expected a tensor of shape (2, 4, 4, 4)"),
    ],
    "08.4": [
        (steps_down, "That is the step down"),
        (never_asks_again, "That is the plain step"),
        (climbs_on, "You climb on from your guess"),
        (asks_once_too_seldom, "once too few"),
        (asks_once_too_often, "once too often"),
        (stops_half_way, "You stop at the clean latent"),
        (adds_all_of_e, "without its factor"),
        (takes_x_for_clean, "You noise x as if it were clean"),
        (takes_variances, "The roots are missing"),
        (swaps_the_factors, "Signal and noise are swapped"),
        (adds_sigma, "do not shrink the picture"),
        (draws_noise, "You draw fresh noise"),
        (forgets_the_noise_above, "The values are off"),
        (turns_round, "The values are off"),
        (gives_two, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
    ],
}
