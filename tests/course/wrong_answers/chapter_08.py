"""Wrong answers to the exercises of chapter 08, each with a part of its hint."""
import torch

# --- 08.1


def noised(z_0, noise, a):
    return a**0.5 * z_0 + (1 - a) ** 0.5 * noise


def does_what_is_left_out(z_0, noise, times, strength, alpha_bar):
    left = times[int(strength * len(times)):]
    return noised(z_0, noise, alpha_bar[left[0]]), left


def keeps_the_noisy_end(z_0, noise, times, strength, alpha_bar):
    left = times[:int(strength * len(times))]
    return noised(z_0, noise, alpha_bar[left[0]]), left


def forgets_to_start_later(z_0, noise, times, strength, alpha_bar):
    first = times[-int(strength * len(times))]
    return noised(z_0, noise, alpha_bar[first]), times


def drowns_it(z_0, noise, times, strength, alpha_bar):
    return noised(z_0, noise, alpha_bar[times[0]]), times[-int(strength * len(times)):]


def noises_too_little(z_0, noise, times, strength, alpha_bar):
    left = times[-int(strength * len(times)):]
    return noised(z_0, noise, alpha_bar[left[1]]), left


def noises_too_much(z_0, noise, times, strength, alpha_bar):
    count = int(strength * len(times))
    return noised(z_0, noise, alpha_bar[times[-count - 1]]), times[-count:]


def mixes_variances(z_0, noise, times, strength, alpha_bar):
    left = times[-int(strength * len(times)):]
    return alpha_bar[left[0]] * z_0 + (1 - alpha_bar[left[0]]) * noise, left


def swaps_signal_and_noise_at_the_start(z_0, noise, times, strength, alpha_bar):
    left = times[-int(strength * len(times)):]
    return noised(z_0, noise, 1 - alpha_bar[left[0]]), left


def does_not_shrink_the_picture(z_0, noise, times, strength, alpha_bar):
    left = times[-int(strength * len(times)):]
    return z_0 + ((1 - alpha_bar[left[0]]) / alpha_bar[left[0]])**0.5 * noise, left


def draws_its_own_noise(z_0, noise, times, strength, alpha_bar):
    left = times[-int(strength * len(times)):]
    return noised(z_0, torch.randn_like(z_0), alpha_bar[left[0]]), left


def begins_with_noise(z_0, noise, times, strength, alpha_bar):
    return noise, times[-int(strength * len(times)):]


def takes_strength_for_t(z_0, noise, times, strength, alpha_bar):
    return noised(z_0, noise, alpha_bar[int(1000 * strength)]), times[-int(strength * len(times)):]


def gives_only_the_latent(z_0, noise, times, strength, alpha_bar):
    return noised(z_0, noise, alpha_bar[times[-int(strength * len(times))]])


# --- 08.2

def starts_twice(e_u, e_image, e_text, s_image, s_text):
    return (e_u + s_image * (e_image - e_u)) + (e_u + s_text * (e_text - e_u))


def adds_the_noises(e_u, e_image, e_text, s_image, s_text):
    return e_u + s_image * e_image + s_text * e_text


def starts_from_nothing(e_u, e_image, e_text, s_image, s_text):
    return s_image * (e_image - e_u) + s_text * (e_text - e_u)


def swaps_the_scales(e_u, e_image, e_text, s_image, s_text):
    return e_u + s_text * (e_image - e_u) + s_image * (e_text - e_u)


def averages_the_guided(e_u, e_image, e_text, s_image, s_text):
    return ((e_u + s_image * (e_image - e_u)) + (e_u + s_text * (e_text - e_u))) / 2


def leads_from_image_to_text(e_u, e_image, e_text, s_image, s_text):
    return e_u + s_image * (e_image - e_u) + s_text * (e_text - e_image)


def leads_away(e_u, e_image, e_text, s_image, s_text):
    return e_u - s_image * (e_image - e_u) - s_text * (e_text - e_u)


def multiplies_the_scales(e_u, e_image, e_text, s_image, s_text):
    return e_u + s_image * s_text * (e_image + e_text - 2 * e_u)


def gives_one_number(e_u, e_image, e_text, s_image, s_text):
    return (e_u + s_image * (e_image - e_u) + s_text * (e_text - e_u)).mean()


# --- 08.3

def paints_outside(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(mask > 0, noised(z_0, noise, alpha_bar_next), x)


def puts_the_clean_one(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(mask > 0, x, z_0)


def puts_noise(x, z_0, noise, mask, alpha_bar_next):
    return torch.where(mask > 0, x, noise)


def blends_variances(x, z_0, noise, mask, alpha_bar_next):
    return mask * x + (1 - mask) * (alpha_bar_next * z_0 + (1 - alpha_bar_next) * noise)


def swaps_signal_and_noise(x, z_0, noise, mask, alpha_bar_next):
    return mask * x + (1 - mask) * noised(z_0, noise, 1 - alpha_bar_next)


def adds_on_top(x, z_0, noise, mask, alpha_bar_next):
    return x + (1 - mask) * noised(z_0, noise, alpha_bar_next)


def blends_fresh_noise(x, z_0, noise, mask, alpha_bar_next):
    return mask * x + (1 - mask) * noised(z_0, torch.randn(z_0.shape), alpha_bar_next)


def blends_without_shrinking(x, z_0, noise, mask, alpha_bar_next):
    return mask * x + (1 - mask) * (z_0 + (1 / alpha_bar_next - 1) ** 0.5 * noise)


def keeps_x(x, z_0, noise, mask, alpha_bar_next):
    return x.clone()


def gives_the_masked_part(x, z_0, noise, mask, alpha_bar_next):
    return x[..., 1:3, 2:]


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
        (does_what_is_left_out, "You leave out the share that is to be done"),
        (keeps_the_noisy_end, "You keep the times at the noisy end"),
        (forgets_to_start_later, "Nothing is left out"),
        (drowns_it, "that of the very first time"),
        (noises_too_little, "a step too weak"),
        (noises_too_much, "a step too strong"),
        (mixes_variances, "The roots are missing"),
        (begins_with_noise, "nothing but noise"),
        (swaps_signal_and_noise_at_the_start, "Signal and noise are swapped"),
        (does_not_shrink_the_picture, "do not shrink the picture"),
        (draws_its_own_noise, "You draw fresh noise"),
        (takes_strength_for_t, "The values are off"),
        (gives_only_the_latent, "Expected 2 results, got a tensor"),
    ],
    "08.2": [
        (starts_twice, "added twice"),
        (adds_the_noises, "You add the predicted noises"),
        (starts_from_nothing, "You forget to start"),
        (swaps_the_scales, "The two scales are swapped"),
        (averages_the_guided, "The values are off"),
        (leads_from_image_to_text, "as InstructPix2Pix does"),
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
