"""Wrong answers to the exercises of chapter 10, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 10.1

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

def adds_a_little(logits):
    return -torch.log(torch.sigmoid(logits) + 1e-8).mean()


def takes_two_steps(logits):
    return -torch.log(torch.sigmoid(logits)).mean()


def detaches(logits):
    return -F.logsigmoid(logits.detach()).mean()


def saturates(logits):
    return torch.log(1 - torch.sigmoid(logits)).mean()


def takes_the_discriminators_loss(logits):
    return -torch.log(1 - torch.sigmoid(logits)).mean()


def reverses_the_sign(logits):
    return F.logsigmoid(logits).mean()


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


def counted_by(x, centres, radius, norm):
    distance, mode = torch.cdist(x, centres, p=norm).min(dim=1)
    return [int(((mode == i) & (distance < radius)).sum()) for i in range(len(centres))]


def adds_the_coordinates(x, centres, radius, least):
    return sum(c >= least for c in counted_by(x, centres, radius, 1))


def takes_the_larger_coordinate(x, centres, radius, least):
    return sum(c >= least for c in counted_by(x, centres, radius, float("inf")))


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
        (gives_precision, "That is precision"),
        (counts_itself, "its own nearest neighbour"),
        (reaches_too_far, "one neighbour too far"),
        (gives_coverage, "That is coverage"),
        (counts, "You return a count"),
        (gives_each_point, "Expected a number"),
    ],
    "10.2": [
        ("CBEAD", "the balls of a picture's own copies"),
        ("DEBAC", "Blends are not real"),
        ("ECBAD", "Without the nights"),
        ("CEBDA", "Noise lies far from everything"),
        ("AEBCD", "precision is about a half"),
        ("CEABD", "Pictures that are repeated are real"),
        ("cebad", "Expected five different letters"),
        ("ABCDE", "is everything real there"),
        (["C", "E", "B", "A", "D"], "Got ['C'"),
    ],
    "10.3": [
        (adds_a_little, "The small number that you add"),
        (takes_two_steps, "infinite or not a number"),
        (detaches, "no gradient passes"),
        (saturates, "which saturates"),
        (takes_the_discriminators_loss, "the discriminator's loss for fakes"),
        (reverses_the_sign, "The sign"),
        (adds_up, "You take the sum"),
        (forgets_the_logarithm, "You forget the logarithm"),
        (takes_the_hinge, "for a hinge"),
        (gives_each_logit, "Expected a number, got a tensor of shape (8, 1)"),
    ],
    "10.4": [
        (adds_the_coordinates, "You add the differences"),
        (takes_the_larger_coordinate, "a square instead of a circle"),
        (counts_strays, "You count strays"),
        (takes_one_point, "One point does not make a mode"),
        (wants_more_than_least, "Exactly `least` is enough"),
        (counts_points, "You count points, not modes"),
        (squares_the_distance, "squared distance"),
        (counts_the_missed, "the modes that are missed"),
        (gives_the_counts, "Expected a number"),
    ],
}
