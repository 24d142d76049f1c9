"""Wrong answers to the exercises of chapter 03, each with a part of its hint."""
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

# --- 03.1

def takes_the_variance(mean, logvar, eps):
    return torch.addcmul(mean, torch.exp(logvar), eps)


def takes_the_logarithm(mean, logvar, eps):
    return torch.addcmul(mean, logvar, eps)


def forgets_the_width(mean, logvar, eps):
    return torch.add(mean, eps)


def divides_by_the_deviation(mean, logvar, eps):
    return mean + eps / torch.exp(logvar).sqrt()


def forgets_the_mean(mean, logvar, eps):
    return torch.exp(logvar / 2) * eps


def halves_the_variance(mean, logvar, eps):
    return mean + 0.5 * torch.exp(logvar) * eps


def returns_mean_and_noise(mean, logvar, eps):
    return mean, torch.exp(logvar / 2) * eps


def cuts_the_gradient(mean, logvar, eps):
    with torch.no_grad():
        return mean + torch.exp(logvar / 2) * eps


# --- 03.2

def divergences(mean, logvar):
    return kl_divergence(Normal(mean, logvar.exp().sqrt()), Normal(0.0, 1.0))


def forgets_the_half(mean, logvar):
    return torch.sum(mean**2 + logvar.exp() - logvar - 1, dim=[1, 2, 3])


def averages(mean, logvar):
    return divergences(mean, logvar).flatten(1).mean(1)


def sums_the_batch(mean, logvar):
    return divergences(mean, logvar).sum()


def takes_the_deviation(mean, logvar):
    return (mean**2 + (logvar / 2).exp() - logvar - 1).flatten(1).sum(1) / 2


def turns_the_sign(mean, logvar):
    return (mean**2 + logvar.exp() + logvar - 1).flatten(1).sum(1) / 2


def drops_the_mean(mean, logvar):
    return (logvar.exp() - logvar - 1).flatten(1).sum(1) / 2


def keeps_the_map(mean, logvar):
    return divergences(mean, logvar)


# --- 03.3

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


def averages_the_batch(a, b, weights):
    return compared(a, b, weights, 1).mean()


# --- 03.4

def zero():
    return torch.zeros(())


def swaps_the_sides(real, fake):
    return (torch.maximum(1 + real, zero()).mean() + torch.maximum(1 - fake, zero()).mean()) / 2


def rewards_fakes(real, fake):
    return (torch.maximum(1 - real, zero()).mean() + torch.maximum(1 - fake, zero()).mean()) / 2


def forgets_the_hinge(real, fake):
    return 1 + (fake.mean() - real.mean()) / 2


def adds_without_a_half(real, fake):
    return torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean()


def forgets_the_margin(real, fake):
    return (torch.clamp(-real, min=0).mean() + torch.clamp(fake, min=0).mean()) / 2


def cuts_the_mean(real, fake):
    return (torch.clamp(1 - real.mean(), min=0) + torch.clamp(1 + fake.mean(), min=0)) / 2


def takes_cross_entropy(real, fake):
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def keeps_the_patches(real, fake):
    return (F.relu(1 - real) + F.relu(1 + fake)) / 2


WRONG = {
    "03.1": [
        (takes_the_variance, "exp(logvar) is the variance"),
        (takes_the_logarithm, "It is a logarithm"),
        (forgets_the_width, "the log-variance is not used"),
        (divides_by_the_deviation, "a large log-variance must give much noise"),
        (forgets_the_mean, "without the mean"),
        (halves_the_variance, "The values are off"),
        (returns_mean_and_noise, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
        (cuts_the_gradient, "no gradient passes"),
    ],
    "03.2": [
        (forgets_the_half, "the ½ is missing"),
        (averages, "their divergences add up"),
        (sums_the_batch, "Return one number per picture"),
        (takes_the_deviation, "in its place"),
        (turns_the_sign, "must have its minimum"),
        (drops_the_mean, "still lie elsewhere"),
        (keeps_the_map, "Expected a tensor of shape (3,), got a tensor of shape (3, 4, 2, 2)"),
    ],
    "03.3": [
        (does_not_normalise, "would outvote the others"),
        (normalises_pixels, "You normalise over the pixels"),
        (normalises_everything, "Normalise each pixel"),
        (sums_pixels, "Take the mean"),
        (averages_channels, "Take the weighted sum"),
        (weighs_before_squaring, "You square the weights"),
        (ignores_the_weights, "The weights are not used"),
        (averages_the_batch, "Expected a tensor of shape (2,), got a number"),
    ],
    "03.4": [
        (swaps_the_sides, "rewards low logits for originals"),
        (rewards_fakes, "take decoded images for originals"),
        (forgets_the_hinge, "the logits grow without limit"),
        (adds_without_a_half, "The ½ is missing"),
        (forgets_the_margin, "the logits must reach 1 and -1"),
        (cuts_the_mean, "a good patch makes up for a bad one"),
        (takes_cross_entropy, "The values are off"),
        (keeps_the_patches, "Expected a number, got a tensor of shape (2, 1, 6, 6)"),
    ],
}
