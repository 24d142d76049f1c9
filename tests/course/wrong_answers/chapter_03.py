"""Wrong answers to the exercises of chapter 03, each with a part of its hint."""
import math

import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

# --- 03.1

def divergences(mean, logvar, s):
    return kl_divergence(Normal(mean, logvar.exp().sqrt()), Normal(0.0, s)).sum((1, 2, 3))


def ignores_the_prior(mean, logvar, s):
    return divergences(mean, logvar, 1.0)


def drops_the_constant(mean, logvar, s):
    return (((mean**2 + logvar.exp()) / s**2 - 1 - logvar) / 2).sum((1, 2, 3))


def turns_the_constant(mean, logvar, s):
    return (((mean**2 + logvar.exp()) / s**2 - 1 - logvar) / 2 - math.log(s)).sum((1, 2, 3))


def divides_by_the_width(mean, logvar, s):
    return (((mean**2 + logvar.exp()) / s - 1 - logvar) / 2 + math.log(s)).sum((1, 2, 3))


def forgets_the_half(mean, logvar, s):
    return ((mean**2 + logvar.exp()) / s**2 - 1 - logvar + 2 * math.log(s)).sum((1, 2, 3))


def averages(mean, logvar, s):
    return divergences(mean, logvar, s) / 16


def sums_the_batch(mean, logvar, s):
    return divergences(mean, logvar, s).sum()


def averages_the_batch(mean, logvar, s):
    return divergences(mean, logvar, s).mean()


def turns_everything(mean, logvar, s):
    return -divergences(mean, logvar, s)


def takes_the_deviation(mean, logvar, s):
    return (((mean**2 + (logvar / 2).exp()) / s**2 - 1 - logvar) / 2 + math.log(s)).sum((1, 2, 3))


def swaps_the_two(mean, logvar, s):
    return kl_divergence(Normal(0.0, s), Normal(mean, logvar.exp().sqrt())).sum((1, 2, 3))


def keeps_the_map(mean, logvar, s):
    return kl_divergence(Normal(mean, logvar.exp().sqrt()), Normal(0.0, s))


def trains_the_mean_alone(mean, logvar, s):
    return divergences(mean, logvar.detach(), s)


# --- 03.2

def unit(x, dim):
    return x / x.pow(2).sum(dim, keepdim=True).sqrt()


def compared(a, b, weights, dim):
    return ((unit(a, dim) - unit(b, dim)) ** 2 * weights.view(-1, 1, 1)).sum(1).mean([1, 2])


def does_not_normalise(a, b, weights):
    return ((a - b) ** 2 * weights.view(-1, 1, 1)).sum(1).mean([1, 2])


def normalises_pixels(a, b, weights):
    return compared(a, b, weights, [2, 3])


def normalises_everything(a, b, weights):
    return compared(a, b, weights, [1, 2, 3])


def sums_pixels(a, b, weights):
    return ((unit(a, 1) - unit(b, 1)) ** 2 * weights.view(-1, 1, 1)).sum([1, 2, 3])


def averages_channels(a, b, weights):
    return ((unit(a, 1) - unit(b, 1)) ** 2 * weights.view(-1, 1, 1)).mean([1, 2, 3])


def weighs_before_squaring(a, b, weights):
    return ((unit(a, 1) - unit(b, 1)) * weights.view(-1, 1, 1)).pow(2).sum(1).mean([1, 2])


def ignores_the_weights(a, b, weights):
    return (unit(a, 1) - unit(b, 1)).pow(2).sum(1).mean([1, 2])


def averages_pictures(a, b, weights):
    return compared(a, b, weights, 1).mean()


def detaches_the_features(a, b, weights):
    return compared(a.detach(), b.detach(), weights, 1)


def detaches_the_lengths(a, b, weights):
    a, b = (x / x.detach().pow(2).sum(1, keepdim=True).sqrt() for x in (a, b))
    return ((a - b) ** 2 * weights.view(-1, 1, 1)).sum(1).mean([1, 2])


# --- 03.3

def count(kernels, strides, apart=1, side=1):
    for kernel, stride in zip(kernels, strides):
        side, apart = side + (kernel - 1) * apart, apart * stride
    return side, apart


def uses_its_own_stride(kernels, strides):
    side, apart = 1, 1
    for kernel, stride in zip(kernels, strides):
        apart *= stride
        side += (kernel - 1) * apart
    return side, apart


def ignores_the_strides(kernels, strides):
    return 1 + sum(k - 1 for k in kernels), math.prod(strides)


def gives_the_last_stride(kernels, strides):
    return count(kernels, strides)[0], strides[-1]


def begins_at_the_logit(kernels, strides):
    return count(kernels[::-1], strides[::-1])


def adds_whole_kernels(kernels, strides):
    return count([k + 1 for k in kernels], strides)


def begins_with_nothing(kernels, strides):
    return count(kernels, strides, side=0)


def gives_the_side_alone(kernels, strides):
    return count(kernels, strides)[0]


# --- 03.4

def furthest(z, codebook):
    return z + (codebook[torch.cdist(z, codebook).argmax(1)] - z).detach()


def returns_the_latents(z, codebook):
    return 1 * z


def takes_the_dot_product(z, codebook):
    return z + (codebook[torch.argmax(z @ codebook.mT, dim=1)] - z).detach()


def returns_numbers(z, codebook):
    return torch.cdist(z, codebook).min(1).indices


def mixes_the_codes(z, codebook):
    return F.softmax(-torch.cdist(z, codebook), dim=-1) @ codebook


def passes_no_gradient(z, codebook):
    return codebook[torch.cdist(z, codebook).argmin(1)]


def passes_twice_the_gradient(z, codebook):
    codes = codebook[torch.cdist(z, codebook).argmin(1)]
    return codes + 2 * (z - z.detach())


def returns_a_pair(z, codebook):
    numbers = torch.cdist(z, codebook).argmin(1)
    return codebook[numbers], numbers


WRONG = {
    "03.1": [
        (ignores_the_prior, "the width of the prior is not used"),
        (drops_the_constant, "The constant log s"),
        (turns_the_constant, "The sign of log s"),
        (divides_by_the_width, "You divide by s"),
        (forgets_the_half, "the ½ is missing"),
        (averages, "their divergences add up"),
        (sums_the_batch, "You add up the batch"),
        (averages_the_batch, "You average over the batch"),
        (turns_everything, "never negative"),
        (takes_the_deviation, "The values are off"),
        (swaps_the_two, "The values are off"),
        (keeps_the_map, "Expected a tensor of shape (3,), got a tensor of shape (3, 4, 2, 2)"),
        (trains_the_mean_alone, "no gradient passes"),
    ],
    "03.2": [
        (does_not_normalise, "would outvote the others"),
        (normalises_pixels, "You normalise over the pixels"),
        (normalises_everything, "Normalise each pixel"),
        (sums_pixels, "Take the mean"),
        (averages_channels, "Take the weighted sum"),
        (weighs_before_squaring, "You square the weights"),
        (ignores_the_weights, "The weights are not used"),
        (averages_pictures, "Expected a tensor of shape (2,), got a number"),
        (detaches_the_features, "no gradient passes"),
        (detaches_the_lengths, "their gradient is not"),
    ],
    "03.3": [
        (uses_its_own_stride, "spreads its outputs"),
        (ignores_the_strides, "The strides are not used"),
        (gives_the_last_stride, "the product of all strides"),
        (begins_at_the_logit, "begin at the picture"),
        (adds_whole_kernels, "A kernel of k adds k - 1"),
        (begins_with_nothing, "The values are off"),
        (gives_the_side_alone, "Expected 2 results, got a number"),
    ],
    "03.4": [
        (furthest, "the code furthest away"),
        (returns_the_latents, "The decoder must read codes"),
        (takes_the_dot_product, "the largest dot product"),
        (returns_numbers, "Look the codes up"),
        (mixes_the_codes, "The decoder must read one"),
        (passes_no_gradient, "no gradient passes"),
        (passes_twice_the_gradient, "their gradient is not"),
        (returns_a_pair, "Expected a tensor of shape (12, 3), got a tuple of 2"),
    ],
}
