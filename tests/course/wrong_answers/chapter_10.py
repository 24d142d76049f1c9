"""Wrong answers to the exercises of chapter 10, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 10.1


def compares_variances(mean, std, mean_2, std_2):
    return ((mean - mean_2) ** 2).sum() + ((std**2 - std_2**2) ** 2).sum()


def takes_the_root(mean, std, mean_2, std_2):
    return torch.cat([mean - mean_2, std - std_2]).norm()


def forgets_the_means(mean, std, mean_2, std_2):
    return ((std - std_2) ** 2).sum()


def forgets_the_spreads(mean, std, mean_2, std_2):
    return ((mean - mean_2) ** 2).sum()


def adds_the_variances(mean, std, mean_2, std_2):
    return ((mean - mean_2) ** 2).sum() + (std**2).sum() + (std_2**2).sum()


def forgets_the_squares(mean, std, mean_2, std_2):
    return (mean - mean_2).abs().sum() + (std - std_2).abs().sum()


def gives_each_dimension(mean, std, mean_2, std_2):
    return (mean - mean_2) ** 2 + (std - std_2) ** 2


def doubles_the_spreads(mean, std, mean_2, std_2):
    return ((mean - mean_2) ** 2).sum() + 2 * ((std - std_2) ** 2).sum()


# --- 10.2

def inside(points, balls, k):
    radii = torch.cdist(balls, balls).sort(dim=1).values[:, k]
    return (torch.cdist(points, balls) <= radii[None]).any(dim=1)


def gives_precision(real, fake, k):
    return inside(fake, real, k).double().mean()


def counts_itself(real, fake, k):
    return inside(real, fake, k - 1).double().mean()


def reaches_too_far(real, fake, k):
    return inside(real, fake, k + 1).double().mean()


def gives_coverage(real, fake, k):
    radii = torch.cdist(real, real).sort(dim=1).values[:, k]
    return (torch.cdist(real, fake) <= radii[:, None]).any(dim=1).double().mean()


def counts(real, fake, k):
    return inside(real, fake, k).double().sum()


def gives_each_point(real, fake, k):
    return inside(real, fake, k).double()


# --- 10.3

def saturates(logits):
    return torch.log(1 - torch.sigmoid(logits)).mean()


def takes_the_discriminators_loss(logits):
    return -torch.log(1 - torch.sigmoid(logits)).mean()


def reverses_the_sign(logits):
    return torch.log(torch.sigmoid(logits)).mean()


def adds_up(logits):
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="sum")


def forgets_the_logarithm(logits):
    return -torch.sigmoid(logits).mean()


def takes_the_hinge(logits):
    return -logits.mean()


def gives_each_logit(logits):
    return -F.logsigmoid(logits)


# --- 10.4

def counted(x, centres, radius):
    distance, mode = torch.cdist(x, centres).min(dim=1)
    return [int(((mode == i) & (distance < radius)).sum()) for i in range(len(centres))]


def counts_strays(x, centres, radius, least):
    return sum(c >= least for c in counted(x, centres, 1e9))


def takes_one_point(x, centres, radius, least):
    return sum(c > 0 for c in counted(x, centres, radius))


def wants_more_than_least(x, centres, radius, least):
    return sum(c > least for c in counted(x, centres, radius))


def counts_points(x, centres, radius, least):
    return sum(counted(x, centres, radius))


def squares_the_distance(x, centres, radius, least):
    return sum(c >= least for c in counted(x, centres, radius**0.5))


def counts_the_missed(x, centres, radius, least):
    return sum(c < least for c in counted(x, centres, radius))


def gives_the_counts(x, centres, radius, least):
    return counted(x, centres, radius)


WRONG = {
    "10.1": [
        (compares_variances, "You compare variances"),
        (takes_the_root, "You take the root at the end"),
        (forgets_the_means, "You forget the means"),
        (forgets_the_spreads, "You forget the standard deviations"),
        (adds_the_variances, "without subtracting"),
        (forgets_the_squares, "The squares are missing"),
        (gives_each_dimension, "Expected a number, got a tensor"),
        (doubles_the_spreads, "The values are off"),
    ],
    "10.2": [
        (gives_precision, "That is precision"),
        (counts_itself, "its own nearest neighbour"),
        (reaches_too_far, "one neighbour too far"),
        (gives_coverage, "That is coverage"),
        (counts, "You return a count"),
        (gives_each_point, "Expected a number"),
    ],
    "10.3": [
        (saturates, "which saturates"),
        (takes_the_discriminators_loss, "the discriminator's loss for fakes"),
        (reverses_the_sign, "The sign"),
        (adds_up, "You take the sum"),
        (forgets_the_logarithm, "You forget the logarithm"),
        (takes_the_hinge, "for a hinge"),
        (gives_each_logit, "Expected a number, got a tensor of shape (8, 1)"),
    ],
    "10.4": [
        (counts_strays, "You count strays"),
        (takes_one_point, "One point does not make a mode"),
        (wants_more_than_least, "Exactly `least` is enough"),
        (counts_points, "You count points, not modes"),
        (squares_the_distance, "squared distance"),
        (counts_the_missed, "the modes that are missed"),
        (gives_the_counts, "Expected a number"),
    ],
}
