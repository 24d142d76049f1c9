"""The doctor's findings: what is wrong, and what to do about it."""
from __future__ import annotations

import textwrap
from typing import NamedTuple

REMEDIES = {    # for each check, in the order in which they are made
    "log": "The training diverges: a lower learning rate, a longer warm-up, clipped gradients; look for a division by "
           "zero or the logarithm of zero. Resume from the last good checkpoint.",
    "EMA": "The average was never updated, or far too slowly: call ema_update after every step, with the model that is "
           "trained; its decay must forget within the run. Until then use the raw weights.",
    "EMA lag": "The average lags behind: train on with a falling learning rate, or average over fewer steps. Until "
               "then use the raw weights.",
    "numbers": "Go back to the last good checkpoint. If training made them: a lower learning rate, clipped gradients, "
               "float32 or bfloat16 in the place of float16.",
    "pixel range": "The decoder must answer in [-1, 1], as the pictures it was trained on: look for pixels in 0...255 "
                   "or [0, 1], and for a factor after the last layer. Clamping would only hide it.",
    "KL": "Posterior collapse: q(z | x) is N(0, 1) whatever the picture. Lower the weight of the KL term (1e-6 is "
          "usual), or let it grow from zero while the decoder learns to read latents.",
    "reconstruction": "Train the autoencoder further before anything else: no U-Net can draw what it cannot decode.",
    "latent scale": "Set the autoencoder's scale (scaling_factor) to 1 / std of the training latents. If the U-Net was "
                    "trained with another, train it again: it has learned other mixtures of signal and noise than the "
                    "schedule says.",
    "schedule": "Sample with the schedule of the training: fix scheduler/scheduler_config.json, or pass that schedule "
                "to the sampler.",
    "zero predictor": "The U-Net has learned nothing: check whether its weights were loaded, whether the loss of the "
                      "training falls, and whether the noise in the loss is the noise that was added.",
    "context": "The condition is lost before it reaches the U-Net: look for an encoder that was not loaded or is zero, "
               "for the same tokens whatever the prompt, for a context that is overwritten.",
    "cross-attention": "The answer of the cross-attention is lost: look for zero weights (to_v, to_out, proj_out), a "
                       "branch that is not added, another tensor passed on as the context.",
    "attention entropy": "Attention to everything alike is dead: look for queries or keys that are zero, for scores "
                         "divided by far too much, for a softmax over the wrong dimension.",
    "trivial predictor": "The U-Net knows how much noise there is and nothing of the pictures: train it longer. If it "
                         "was trained, these are not the contexts of its training.",
    "listening": "The U-Net hears the condition and does not understand it: are pictures and conditions paired in "
                 "training, is this the encoder of that training, was it long enough?",
}
RUN_CHECKS = ("log", "EMA", "numbers")    # those that need no model


class Finding(NamedTuple):
    """One thing that is wrong."""

    check: str       # which check found it, a key of REMEDIES
    severity: str    # "warning", "fault", or "stop": nothing after it can be judged
    what: str        # what was measured, in words

    @property
    def remedy(self) -> str:
        """Say what to do."""
        return REMEDIES[self.check]


def report(found: list[Finding]) -> str:
    """Put findings into plain words, or say that there are none; in lines of at most 90 characters."""
    lines = []
    for finding in found:
        lines += textwrap.wrap(f"{finding.severity}, {finding.check}: {finding.what}", 90)
        lines += textwrap.wrap(finding.remedy, 90, initial_indent="  -> ", subsequent_indent="     ")
    if any(finding.severity == "stop" for finding in found):
        lines.append("Later checks were skipped: fix this, then ask again.")
    return "\n".join(lines) or "Nothing found."
