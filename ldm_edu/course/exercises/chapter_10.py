"""Exercises of chapter 10: a measurement read, the generator's loss, comparisons judged, broken models diagnosed."""
import torch
import torch.nn.functional as F

from . import Exercise, draw

EXERCISES = {}


# --- 10.1: which set has which precision, recall, coverage and Fréchet distance
EXERCISES["10.1"] = Exercise(
    right="DCABE",
    hint="Expected five different letters, in the order of the list. Ask for each set: is every picture real, and is "
         "everything real there?",
    mistakes={
        "Repeated pictures are all real, but the balls of a picture's own copies have no size: recall is 0.": "DACBE",
        "Blends are not real. A set with precision 0.92 consists of true scenes.": "ECABD",
        "Without the nights, about a third of the world is lost. Recall and coverage show it, and precision does not.":
            "CDABE",
        "Noise lies far from everything, so its balls are huge: recall stays high, and only precision falls.": "DCAEB",
        "With noise in every second place, half of the pictures are not real: precision is about a half.": "BCADE",
        "Pictures that are repeated are real ones: their precision is high.": "DCBAE"})


# --- 10.2: what the generator minimises
EXERCISES["10.2"] = Exercise(
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


# --- 10.3: what five comparisons show; how many runs a test of twenty needs
EXERCISES["10.3"] = Exercise(
    right=("dbaec", 6),
    hint="Expected a string of five different letters, in the order of the reports, and a whole number of runs.",
    mistakes={
        "The letters are right. 4 against 4 can reach 2/70 = 0.029, enough for one test at 0.05. How many are there?":
            ("dbaec", 4),
        "The letters are right. 5 against 5 can reach 2/252 = 0.008 and no less. The level of each test is 0.05/20.":
            ("dbaec", 5),
        "The letters are right. Fewer runs would do: two of all (2n)! / (n!)² splits must be under 0.05/20.":
            ("dbaec", 7),
        "The letters are right. Each test is on n runs against n: the tests share the level, not the runs.":
            ("dbaec", 120),
        "Reports 1 and 2: which one changed two things at once, and which one never repeated the training?":
            ("bdaec", 6),
        "Reports 1 and 3: many samples of one training are one run. Which report repeated the training?":
            ("abdec", 6),
        "Reports 3 and 4: a measure that cannot see what is missing proves nothing, however steady it is.":
            ("dbeac", 6),
        "Reports 3 and 5: in which one did somebody look at many measures and report the best?": ("dbcea", 6),
        "Reports 4 and 5: precision is blind to missing pictures. The other report chose one measure of twenty.":
            ("dbace", 6)})


# --- 10.4: which fault makes which pictures
EXERCISES["10.4"] = Exercise(
    right="EACBD",
    hint="Expected five different letters, in the order of the list of faults. Which rows are sharp, which follow "
         "their prompts, which are burnt?",
    mistakes={
        "Burnt and blurred is a latent that is too large, burnt and sharp a decoder that is too loud.": "DACBE",
        "Nearly healthy pictures that follow their prompts come from the wrong schedule, good ones that ignore them "
        "from an encoder that gives zeros.": "EBCAD",
        "A U-Net without its weights cannot draw a landscape at all. With the wrong schedule it still can.": "ECABD",
        "Pictures that ignore their prompts are still pictures. Without weights there are only blotches.": "EABCD",
        "A factor before the decoder blurs shapes. A row of blotches has no shapes to blur.": "CAEBD",
        "A loud decoder keeps the shapes of the healthy row. Blotches have none of them.": "EADBC"})
