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


def keeps_x(x, z_0, noise, mask, alpha_bar_next):
    return x.clone()


def gives_the_masked_part(x, z_0, noise, mask, alpha_bar_next):
    return x[..., 1:3, 2:]


# --- 08.4

def steps_down(x, e, below, above):
    x0 = (x - (1 - above) ** 0.5 * e) / above**0.5
    return noised(x0, e, below)


def takes_x_for_clean(x, e, below, above):
    return noised(x, e, above)


def stops_half_way(x, e, below, above):
    return (x - (1 - below) ** 0.5 * e) / below**0.5


def turns_round(x, e, below, above):
    return noised((x - (1 - below) ** 0.5 * e) / below**0.5, e, below)


def adds_all_of_e(x, e, below, above):
    return above**0.5 * (x - (1 - below) ** 0.5 * e) / below**0.5 + e


def takes_variances(x, e, below, above):
    return above * (x - (1 - below) * e) / below + (1 - above) * e


def draws_noise(x, e, below, above):
    return noised(x, torch.randn(x.shape), above / below)


def forgets_the_noise_above(x, e, below, above):
    return above**0.5 * (x - (1 - below) ** 0.5 * e) / below**0.5


def gives_two(x, e, below, above):
    x0 = (x - (1 - below) ** 0.5 * e) / below**0.5
    return noised(x0, e, above), x0


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
        (takes_strength_for_t, "The values are off"),
        (gives_only_the_latent, "Expected 2 results, got a tensor"),
    ],
    "08.2": [
        (starts_twice, "added twice"),
        (adds_the_noises, "You add the predicted noises"),
        (starts_from_nothing, "You forget to start"),
        (swaps_the_scales, "The two scales are swapped"),
        (averages_the_guided, "each counts half"),
        (leads_from_image_to_text, "You subtract the image's noise"),
        (leads_away, "The sign is wrong"),
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
        (keeps_x, "The values are off"),
        (gives_the_masked_part, "Expected a tensor of shape (2, 4, 4, 4)"),
    ],
    "08.4": [
        (steps_down, "That is the step down"),
        (takes_x_for_clean, "You noise x as if it were clean"),
        (stops_half_way, "You stop at the clean latent"),
        (turns_round, "that leads back to x"),
        (adds_all_of_e, "without its factor"),
        (takes_variances, "The roots are missing"),
        (draws_noise, "You draw fresh noise"),
        (forgets_the_noise_above, "The values are off"),
        (gives_two, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
    ],
}
