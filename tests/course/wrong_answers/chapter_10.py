"""Wrong answers to the exercises of chapter 10, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 10.2

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


WRONG = {
    "10.1": [
        ("DACBE", "the balls of a picture's own copies"),
        ("ECABD", "Blends are not real"),
        ("CDABE", "Without the nights"),
        ("DCAEB", "Noise lies far from everything"),
        ("BCADE", "precision is about a half"),
        ("DCBAE", "Pictures that are repeated are real"),
        ("dcabe", "Expected five different letters"),
        ("ABCDE", "is everything real there"),
        (["D", "C", "A", "B", "E"], "Got ['D'"),
    ],
    "10.2": [
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
    "10.3": [
        (("dbaec", 4), "How many are there"),
        (("dbaec", 5), "2/252"),
        (("dbaec", 7), "Fewer runs would do"),
        (("dbaec", 120), "not the runs"),
        (("bdaec", 6), "Reports 1 and 2"),
        (("abdec", 6), "Reports 1 and 3"),
        (("dbeac", 6), "Reports 3 and 4"),
        (("dbcea", 6), "Reports 3 and 5"),
        (("dbace", 6), "Reports 4 and 5"),
        (("dbaec", 100), "off by up to 94"),
        (("abcde", 6), "Got 'abcde'"),
        ("dbaec", "Expected 2 results"),
    ],
    "10.4": [
        ("DACBE", "Burnt and blurred"),
        ("EBCAD", "Nearly healthy pictures"),
        ("ECABD", "cannot draw a landscape"),
        ("EABCD", "there are only blotches"),
        ("CAEBD", "has no shapes to blur"),
        ("EADBC", "keeps the shapes"),
        ("ABCDE", "Expected five different letters"),
        (["E", "A", "C", "B", "D"], "Got ['E'"),
    ],
}
