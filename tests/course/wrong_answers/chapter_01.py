"""Wrong answers to the exercises of chapter 01, each with a part of its hint."""
import torch

# --- 01.1


def _rates(alpha_bar, t):
    a = alpha_bar[t][:, None, None, None]
    return torch.sqrt(a), torch.sqrt(1 - a)


def _signal(alpha_bar, s, t):
    return _rates(alpha_bar, t)[0] / _rates(alpha_bar, s)[0]


def lines_up_with_the_columns(x_s, eps, s, t, alpha_bar):
    alpha = alpha_bar.gather(0, t) / alpha_bar.gather(0, s)
    return torch.sqrt(alpha) * x_s + torch.sqrt(1 - alpha) * eps


def starts_from_clean(x_s, eps, s, t, alpha_bar):
    signal, noise = _rates(alpha_bar, t)
    return signal * x_s + noise * eps


def has_no_roots(x_s, eps, s, t, alpha_bar):
    alpha = _signal(alpha_bar, s, t) ** 2
    return torch.lerp(eps, x_s, alpha.expand_as(eps))


def adds_a_variance(x_s, eps, s, t, alpha_bar):
    signal = _signal(alpha_bar, s, t)
    return signal * x_s + (1 - signal * signal) * eps


def adds_all_the_noise_again(x_s, eps, s, t, alpha_bar):
    return _signal(alpha_bar, s, t) * x_s + _rates(alpha_bar, t)[1] * eps


def subtracts_the_variances(x_s, eps, s, t, alpha_bar):
    variance = _rates(alpha_bar, t)[1] ** 2 - _rates(alpha_bar, s)[1] ** 2
    return _signal(alpha_bar, s, t) * x_s + variance.clamp(min=0).sqrt() * eps


def undoes_and_noises_again_with_the_fresh_eps(x_s, eps, s, t, alpha_bar):
    (signal_s, noise_s), (signal_t, noise_t) = _rates(alpha_bar, s), _rates(alpha_bar, t)
    x0 = (x_s - noise_s * eps) / signal_s
    return signal_t * x0 + noise_t * eps


def swaps_s_and_t(x_s, eps, s, t, alpha_bar):
    signal = _signal(alpha_bar, t, s)
    return signal * x_s + torch.sqrt(1 - signal**2) * eps


def takes_step_s_again(x_s, eps, s, t, alpha_bar):
    before = torch.cat([torch.ones(1), alpha_bar])
    alpha = torch.stack([alpha_bar[b] / before[a] for a, b in zip(s.tolist(), t.tolist())]).view(-1, 1, 1, 1)
    return alpha.sqrt() * x_s + (1 - alpha).sqrt() * eps


def takes_the_first_pair_for_all(x_s, eps, s, t, alpha_bar):
    alpha = alpha_bar[t[0]] / alpha_bar[s[0]]
    return alpha.sqrt() * x_s + (1 - alpha).sqrt() * eps


def adds_an_axis(x_s, eps, s, t, alpha_bar):
    signal = _signal(alpha_bar, s, t)[None]
    return signal * x_s.unsqueeze(1).transpose(0, 1) + torch.sqrt(1 - signal**2) * eps.unsqueeze(1).transpose(0, 1)


def works_in_place(x_s, eps, s, t, alpha_bar):
    signal = _signal(alpha_bar, s, t)
    x_s *= signal
    x_s += torch.sqrt(1 - signal**2) * eps
    return x_s


# --- 01.2


def shifts_alpha_bar(alpha_bar):
    return alpha_bar[0] * (alpha_bar - alpha_bar[-1]) / (alpha_bar[0] - alpha_bar[-1])


def only_shifts(alpha_bar):
    signal = torch.sqrt(alpha_bar)
    return (signal - signal.min()).square()


def starts_at_one(alpha_bar):
    signal = torch.sqrt(alpha_bar)
    signal = signal - signal.min()
    return (signal / signal.max()).square()


def cuts_the_end_off(alpha_bar):
    new = alpha_bar.clone()
    new[-1] = 0
    return new


def forgets_to_square(alpha_bar):
    signal = torch.sqrt(alpha_bar)
    return (signal - signal[-1]) / (1 - signal[-1] / signal[0])


def subtracts_a_ramp(alpha_bar):
    signal = torch.sqrt(alpha_bar)
    return torch.stack([(r - signal[-1] * t / (len(signal) - 1)) ** 2 for t, r in enumerate(signal)])


def changes_its_argument(alpha_bar):
    alpha_bar[-1] = 0.0
    return alpha_bar


def returns_betas(alpha_bar):
    new = forgets_to_square(alpha_bar).square()
    return 1 - new[1:] / new[:-1]


# --- 01.3


def divides_by_the_side(alpha_bar, factor):
    snr = alpha_bar / (1 - alpha_bar) / factor
    return snr / (snr + 1)


def goes_the_wrong_way(alpha_bar, factor):
    signal = alpha_bar * factor**2
    return signal / (signal + 1 - alpha_bar)


def divides_alpha_bar(alpha_bar, factor):
    return alpha_bar / factor / factor


def stops_at_the_snr(alpha_bar, factor):
    return alpha_bar / ((1 - alpha_bar) * factor**2)


def returns_the_noise(alpha_bar, factor):
    noise = (1 - alpha_bar) * factor**2
    return noise / (noise + alpha_bar)


def compares_deviations(alpha_bar, factor):
    ratio = torch.sqrt(alpha_bar / (1 - alpha_bar)) / factor
    return ratio / (1 + ratio)


def enlarges_the_betas(alpha_bar, factor):
    return torch.exp(torch.log(alpha_bar) * factor**2)


def divides_by_the_snr(alpha_bar, factor):
    return 1 / (1 + factor / (alpha_bar / (1 - alpha_bar)).clamp(min=1e-3))


def returns_the_last(alpha_bar, factor):
    return float(alpha_bar[-1] / (alpha_bar[-1] + factor**2 * (1 - alpha_bar[-1])))


WRONG = {
    "01.1": [
        (lines_up_with_the_columns, "wrong axis"),
        (starts_from_clean, "You treat x_s as clean"),
        (has_no_roots, "Both factors are variances"),
        (adds_a_variance, "Your factor of eps is a variance"),
        (adds_all_the_noise_again, "is in x_s already"),
        (subtracts_the_variances, "the noise of x_s shrinks, too"),
        (undoes_and_noises_again_with_the_fresh_eps, "eps is fresh"),
        (swaps_s_and_t, "Upside down"),
        (takes_step_s_again, "Off by one"),
        (takes_the_first_pair_for_all, "reshape it to (B, 1, 1, 1)"),
        (adds_an_axis, "Expected a tensor of shape (5, 3, 2, 5), got"),
        (works_in_place, "changes its arguments"),
    ],
    "01.2": [
        (shifts_alpha_bar, "the factor of the picture"),
        (only_shifts, "scale after the shift"),
        (starts_at_one, "not to 1"),
        (cuts_the_end_off, "A cliff"),
        (forgets_to_square, "Square it"),
        (subtracts_a_ramp, "you subtract a ramp"),
        (changes_its_argument, "changes its arguments"),
        (returns_betas, "Expected a tensor of shape (1000,), got a tensor of shape (999,)"),
    ],
    "01.3": [
        (divides_by_the_side, "1 / factor² of the variance"),
        (goes_the_wrong_way, "The wrong direction"),
        (divides_alpha_bar, "You divided alpha_bar"),
        (stops_at_the_snr, "That is the new SNR"),
        (returns_the_noise, "the share of the noise"),
        (compares_deviations, "ratio of variances"),
        (enlarges_the_betas, "Larger betas"),
        (divides_by_the_snr, "divide it by what averaging gains"),
        (returns_the_last, "Expected a tensor of shape (1000,), got a number"),
    ],
    "01.4": [
        (("right", "no shrinking", "one step", "no root"), "A and B"),
        (("one step", "right", "no shrinking", "no root"), "A and C"),
        (("no root", "right", "one step", "no shrinking"), "A and D"),
        (("no shrinking", "one step", "right", "no root"), "B and C"),
        (("no shrinking", "no root", "one step", "right"), "B and D"),
        (("no shrinking", "right", "no root", "one step"), "C and D"),
        (("one step", "no shrinking", "right", "no root"), "In which row does the picture never go?"),
        (("no shrinking", "right", "one step"), "Expected 4 results, got a tuple of 3"),
        (2, "Expected 4 results, got a number"),
    ],
}
