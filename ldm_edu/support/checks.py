"""Argument checks for the doors of the package: what came, and what was expected, in one sentence.

A door is where a user's own input enters: the methods of `LatentDiffusion`, loaders, readers, command lines.
"""
from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection
from numbers import Integral, Real

import torch
from tokenizers import Tokenizer
from torch import Tensor

SMALL_VOCABULARY = 10_000    # tokens: below, common words are missing; CLIP's has 49,408


def expect(ok: bool, name: str, got: object, expected: object) -> None:
    """Raise ValueError, "name: got ..., expected ...", unless `ok`."""
    if not ok:
        raise ValueError(f"{name}: got {got}, expected {expected}")


def refuse(source: object, wrong: list[str]) -> None:
    """Raise ValueError with the first few of what is wrong and the number of the others, if anything is."""
    if wrong:
        more = [f"and {len(wrong) - 8} more"] if len(wrong) > 8 else []
        raise ValueError(f"{source}: " + "; ".join(wrong[:8] + more))


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless `value` is an integer from `low` to `high`."""
    expect(isinstance(value, Integral) and low <= value <= high, name, repr(value),
           f"an integer from {low} to {'2^63 - 1' if high == 2**63 - 1 else high}")


def check_request(sampler: str, samplers: Collection[str], steps: int, T: int, seed: int, guidance_scale: float | None,
                  strength: float = 1.0, rounds: int = 1) -> None:
    """Raise ValueError unless these can be sampled with."""
    most = T - 1 if sampler == "dpm_solver" else T
    for name, value, ok, expected in (
            ("sampler", sampler, sampler in samplers, f"one of {', '.join(samplers)}"),
            ("steps", steps, isinstance(steps, Integral) and 1 <= steps <= most, f"an integer from 1 to {most}"),
            ("seed", seed, isinstance(seed, Integral) and 0 <= seed < 2**63, "an integer from 0 to 2^63 - 1"),
            ("guidance_scale", guidance_scale,
             guidance_scale is None or isinstance(guidance_scale, Real) and math.isfinite(guidance_scale),
             "a finite number; 1 is no guidance"),
            ("strength", strength, isinstance(strength, Real) and 0 <= strength <= 1,
             "a number from 0 (a copy) to 1 (almost all new)"),
            ("rounds", rounds, isinstance(rounds, Integral) and rounds >= 1, "a positive integer")):
        if not ok:
            raise ValueError(f"{name}: got {value!r}, expected {expected}")


def check_guidance(guidance_scale: float | None, negative_prompt: str | list[str], usual: float,
                   distilled: bool) -> float:
    """Return the guidance scale to draw with: by default `usual`, and 1 with a distilled model, which takes no other.

    Raises ValueError for guidance or a negative prompt on top of what a distilled model has built in.
    """
    why = ("this model was distilled, and guidance is built into its one prediction; unless its LoRA was "
           "merged, remove_lora(ldm.unet) gives the undistilled one back")
    expect(not distilled or not any(negative_prompt), "negative_prompt", repr(negative_prompt), f"none: {why}")
    if guidance_scale is None:
        return 1.0 if distilled else usual
    expect(not distilled or guidance_scale <= 1, "guidance_scale", f"{guidance_scale:g}", f"1: {why}")
    return guidance_scale


def check_size(size: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return (height, width) in pixels from a side or a pair, both multiples of `multiple`; else raise ValueError."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    expect(len(sides) == 2 and all(isinstance(s, Integral) and s > 0 and s % multiple == 0 for s in sides), "size",
           repr(size), f"a side or (height, width) in pixels, multiples of {multiple}")
    return sides


def check_texts(name: str, value: str | list[str], empty: bool = True, prompts: int | None = None,
                encoder: object = None) -> list[str]:
    """Return a string or a list of strings as a list; ValueError for anything else.

    empty: whether texts without words will do. prompts: how many there are, if one text, or one for each, is expected.
    encoder: if it has a tokenizer with a small vocabulary, warn of the words that it holds only in parts.
    """
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{name}: got {value!r}, expected a string or a list of strings")
    if not empty and not all(text.strip() for text in values):
        raise ValueError(f"{name}: got {value!r}, expected words: the empty prompt is the unconditional one")
    if prompts is not None and len(values) not in (1, prompts):
        raise ValueError(f"{name}: got {len(values)}, expected 1 or as many as prompts, {prompts}")
    tokenizer: Tokenizer | None = getattr(encoder, "tokenizer", None)
    if tokenizer is not None and tokenizer.get_vocab_size() < SMALL_VOCABULARY:
        rows = tokenizer.encode_batch(list(values))
        found = [text[slice(*row.word_to_chars(word))] for text, row in zip(values, rows)
                 for word, count in Counter(row.word_ids).items() if word is not None and count > 1]
        if unknown := [repr(word) for word in dict.fromkeys(found) if word.isalpha()]:
            warnings.warn(f"{name}: {', '.join(unknown)} not in this model's vocabulary: it spells such words, and has "
                          "hardly learned what they mean", stacklevel=3)
    return list(values)


def check_images(name: str, x: Tensor, channels: int = 3, multiple: int = 1, largest: float = 10.0) -> None:
    """Raise ValueError unless x is (batch, channels, H, W), with sides that `multiple` divides and pixels in [-1, 1].

    Values up to `largest` pass, because decoders overshoot; 0...255 and NaN do not.
    """
    expect(x.ndim == 4 and x.shape[1] == channels and not any(side % multiple for side in x.shape[2:]), name,
           tuple(x.shape), f"(batch, {channels}, height, width)" + f", sides multiples of {multiple}" * (multiple > 1))
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return    # while a step of training is recorded nothing can be read
    found = x.detach().abs().amax().item() if x.numel() else 0.0
    expect(found <= largest, name, f"values up to {found:.4g}", "pixels in [-1, 1]; datasets.to_float converts 0...255")


def check_map(maps: object, size: int, classes: int) -> Tensor:
    """Return semantic maps; ValueError unless they are integers (batch, size, size) from 0 to classes - 1."""
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    expect(isinstance(maps, Tensor) and maps.ndim == 3 and maps.shape[1:] == (size, size), "semantic_map", shape,
           f"a tensor of integers (batch, {size}, {size})")
    inside = not maps.is_floating_point() and (not maps.numel() or 0 <= int(maps.min()) <= int(maps.max()) < classes)
    expect(inside, "semantic_map", f"{maps.dtype} from {maps.min()} to {maps.max()}",
           f"integers from 0 to {classes - 1}, the classes")
    return maps


def check_timesteps(t: Tensor | int, T: int) -> Tensor:
    """Return t as an int64 tensor. Raises ValueError unless it holds integers; on the CPU, also unless 0 <= t < T."""
    t, expected = torch.as_tensor(t), f"integers from 0 to {T - 1}"
    expect(t.dtype != torch.bool and not t.is_floating_point(), "t", t.dtype, expected)
    if t.device.type == "cpu":    # elsewhere reading it would make every step of training wait
        for outside in t[(t < 0) | (t >= T)].flatten():
            raise ValueError(f"t: got {outside.item()}, expected {expected}")
    return t.long()


def check_flow(velocity: object, levels: Tensor) -> None:
    """Raise ValueError unless a sampler of flows can run: `velocity` predicts no noise, and levels are in (0, 1]."""
    expect(getattr(velocity, "predicts", "velocity") == "velocity", "velocity", "a model that predicts noise",
           "one that predicts velocity; velocity_from_eps makes it one")
    expect(levels.is_floating_point() and bool(((levels > 0) & (levels <= 1)).all()), "levels",
           f"{levels.dtype} from {levels.max():g} to {levels.min():g}", "times t from 1 down, as of flow_levels")


def check_flow_time(t: Tensor) -> Tensor:
    """Return t, the time of a flow. Raises ValueError for one time outside of 0 ... 1, such as a sampler's timestep."""
    recorded = t.is_cuda and torch.cuda.is_current_stream_capturing()
    if t.ndim == 0 and not recorded and not 0 <= t <= 1:
        raise ValueError(f"t: got {t:g}, expected a time from 0 to 1: this model predicts velocity, for flow_euler; "
                         "eps_from_velocity makes it one for samplers of noise")
    return t
