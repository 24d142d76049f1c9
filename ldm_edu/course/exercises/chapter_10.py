"""Exercises of chapter 10: recall, a measurement read, the generator's loss, modes counted."""
import torch
import torch.nn.functional as F

from . import Exercise, draw

EXERCISES = {}


# --- 10.1: recall
def _reach(points, k):
    return torch.cdist(points, points).sort(1).values[:, k]    # [:, 0] is the point itself


def _share(points, balls, k):
    return (torch.cdist(points, balls) <= _reach(balls, k)).any(1).double().mean()


def _recall_case(seed, k):
    """Fakes in one part of the real cloud, and some strays."""
    fake = torch.cat([0.4 * draw(seed + 1, 25, 2) + 0.5, 3 + draw(seed + 2, 6, 2)])
    return draw(seed, 40, 2).double(), fake.double(), k


EXERCISES["10.1"] = Exercise(
    right=_share,
    cases=lambda: [_recall_case(0, 1), _recall_case(5, 2), _recall_case(9, 3)],
    hint="A ball around each *fake* point, to its k-th neighbour among the fakes; the share of *real* points in a "
         "ball.",
    mistakes={
        "That is precision: the share of fakes in the balls of the real points. Swap the two.":
            lambda real, fake, k: _share(fake, real, k),
        "Each point is its own nearest neighbour, at distance 0. Your k-th is the one before.":
            lambda real, fake, k: _share(real, fake, k - 1),
        "Your balls reach one neighbour too far.": lambda real, fake, k: _share(real, fake, k + 1),
        "Your balls are around the real points. That is coverage, not recall.":
            lambda real, fake, k: (torch.cdist(real, fake).amin(1) <= _reach(real, k)).double().mean(),
        "You return a count instead of a share.": lambda real, fake, k: len(real) * _share(real, fake, k)})


# --- 10.2: which set has which precision, recall and coverage
EXERCISES["10.2"] = Exercise(
    right="CEBAD",
    hint="Expected five different letters, in the order of the list. Ask for each set: is every picture real, and is "
         "everything real there?",
    mistakes={
        "Repeated pictures are all real, but the balls of a picture's own copies have no size: recall is 0.": "CBEAD",
        "Blends are not real. A set with precision 0.96 consists of true scenes.": "DEBAC",
        "Without the nights, about a third of the world is lost. Recall and coverage show it, and precision does not.":
            "ECBAD",
        "Noise lies far from everything, so its balls are huge: recall stays high, and only precision falls.": "CEBDA",
        "With noise in every second place, half of the pictures are not real: precision is about a half.": "AEBCD",
        "Pictures that are repeated are real ones: their precision is 1.": "CEABD"})


# --- 10.3: what the generator minimises
EXERCISES["10.3"] = Exercise(
    right=lambda logits: F.softplus(-logits).mean(),
    cases=lambda: [(logits.requires_grad_(),) for logits in (3 * draw(0, 8, 1) - 1, draw(1, 5, 1) + 2,
                                                            torch.tensor([[-120.0], [-2.0], [0.0], [3.0]]))],
    hint="The mean of -log D of the generated samples, with D = sigmoid(logit), in one stable step: logsigmoid or "
         "softplus.",
    mistakes={
        "The small number that you add hides the logarithm of 0, and with it the gradient: at -120 the generator "
        "learns nothing.": lambda logits: -(torch.sigmoid(logits) + 1e-8).log().mean(),
        "That is log(1 - D), which saturates: where the discriminator is sure, it has no slope.":
            lambda logits: -F.softplus(logits).mean(),
        "That is the discriminator's loss for fakes. The generator wants the opposite.":
            lambda logits: F.softplus(logits).mean(),
        "The sign is wrong: fooling the discriminator must lower the loss.": lambda logits: -F.softplus(-logits).mean(),
        "You take the sum instead of the mean.": lambda logits: F.softplus(-logits).sum(),
        "You forget the logarithm.": lambda logits: -torch.sigmoid(logits).mean(),
        "That is the generator's loss for a hinge. Take the sigmoid and the logarithm.": lambda logits: -logits.mean()})


# --- 10.4: modes that are covered
def _modes(x, centres, radius, least, norm=2.0):
    distance, mode = torch.cdist(x, centres, p=norm).min(1)
    return int((torch.bincount(mode[distance < radius], minlength=len(centres)) >= least).sum())


def _modes_cases():
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0], [8.0, 0.0], [8.0, 4.0]])
    near = [centres[i] + 0.3 * draw(i, count, 2).clamp(-1, 1) for i, count in enumerate((30, 12, 5, 1))]
    strays = torch.tensor([8.0, 1.5]) + 0.1 * draw(9, 20, 2)
    beyond = [centres[i] + torch.tensor(step).expand(8 * i - 18, -1) for i, step in
              ((3, [0.78, 0.0]), (4, [0.45, 0.45]), (5, [0.6, 0.6]))]    # the second is within 0.7
    x = torch.cat([*near, strays, *beyond])
    return [*((x, centres, 0.7, least) for least in (2, 5, 20)), (x, centres, 3.4, 40)]    # the last: circles overlap


EXERCISES["10.4"] = Exercise(
    right=_modes,
    cases=_modes_cases,
    hint="The nearest centre of each point; drop points beyond the radius; count the centres that keep at least "
         "`least`.",
    mistakes={
        "You count strays: a point beyond the radius of its nearest centre belongs to no mode.":
            lambda x, c, r, n: _modes(x, c, float("inf"), n),
        "You count a point for every centre within the radius. It belongs to the nearest alone.":
            lambda x, c, r, n: int(((torch.cdist(x, c) < r).sum(0) >= n).sum()),
        "You add the differences of the two coordinates. The distance is the root of the sum of their squares.":
            lambda x, c, r, n: _modes(x, c, r, n, 1.0),
        "You take the larger of the two coordinates' differences: a square instead of a circle.":
            lambda x, c, r, n: _modes(x, c, r, n, float("inf")),
        "One point does not make a mode: it takes `least` of them.": lambda x, c, r, n: _modes(x, c, r, 1),
        "You ask for more than `least`. Exactly `least` is enough.": lambda x, c, r, n: _modes(x, c, r, n + 1),
        "You count points, not modes.": lambda x, c, r, n: int((torch.cdist(x, c).amin(1) < r).sum()),
        "You compare the squared distance with the radius.": lambda x, c, r, n: _modes(x, c, r**0.5, n),
        "You count the modes that are missed.": lambda x, c, r, n: len(c) - _modes(x, c, r, n)})
