"""What the U-Net is told, tau(y), and how firmly: encoders of texts, images and maps, and classifier-free guidance.

Each encoder turns its kind of condition into a sequence of states (B, N, D), and the U-Net's cross-attention reads
them all in the same way: it cannot know where they come from.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTokenizer

from .clip import ImageTransformer, TextTransformer
from .painting import CLASSES
from .samplers import EpsFn

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"    # how CLIP cuts text into words


def build_tokenizer(words: Iterable[str], length: int = 32) -> CLIPTokenizer:
    """A CLIP tokenizer for a small vocabulary: each of `words` is one token, others fall back to parts.

    The vocabulary is laid out as CLIP's is: 256 bytes, 256 bytes that end a word, the merges of byte-pair
    encoding (Sennrich et al. 2015, arXiv:1508.07909) run until every word is whole, and the two specials, of
    which the end token also pads. Upper case is read as lower case. length: tokens in a prompt, the specials
    included. The same set of words gives the same tokenizer. Raises ValueError if there are no words.
    """
    words = sorted({word.lower() for word in words})
    if not words:
        raise ValueError("words: got none, expected at least one")
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_CLIP_WORD), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [c + "</w>" for c in alphabet]
    bpe.train_from_iterator(words, trainers.BpeTrainer(
        vocab_size=10**6, min_frequency=0, show_progress=False, end_of_word_suffix="</w>",
        special_tokens=ends))    # which fixes their order, and with it that of equally frequent pairs
    with tempfile.TemporaryDirectory() as folder:    # which every version of transformers reads
        bpe.model.save(folder)
        pairs = (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]    # below a header
        tokens = dict.fromkeys([*alphabet, *ends, *(pair.replace(" ", "") for pair in pairs), _START, _END])
        vocabulary = json.dumps({token: i for i, token in enumerate(tokens)})
        (Path(folder) / "vocab.json").write_text(vocabulary, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: str | os.PathLike) -> None:
    """Write the files of `tokenizer` for transformers 4 (vocab.json, merges.txt) and 5 (tokenizer.json)."""
    tokenizer.save_pretrained(folder)
    if not (Path(folder) / "merges.txt").exists():
        tokenizer.backend_tokenizer.model.save(str(folder))


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids, int64 (B, N): start, words, end, then the padding token up to N, on the CPU.

    Raises ValueError if `prompts` is no list of strings, and for a prompt that is too long, naming what
    would be cut: a picture of half a sentence is worse than none.
    """
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts: got {prompts!r}, expected a list of strings")
    length, pad = tokenizer.model_max_length, tokenizer.pad_token_id
    rows = tokenizer(list(prompts), verbose=False).input_ids if prompts else []
    for prompt, row in zip(prompts, rows):
        if len(row) > length:
            cut = tokenizer.decode(row[length - 1:-1])
            raise ValueError(f"prompt: got {len(row)} tokens, expected at most {length}, start and end "
                             f"included; {cut!r} would be cut from {prompt!r}")
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows]).long().reshape(-1, length)


class TextEncoder(nn.Module):
    """tau for text: prompts -> tokens -> the states that the U-Net's cross-attention reads.

    Raises ValueError if `tokenizer` has more tokens than `transformer` knows, or another length.
    """

    def __init__(self, tokenizer: CLIPTokenizer, transformer: TextTransformer):
        super().__init__()
        config = transformer.config
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"tokenizer: got {len(tokenizer)} tokens, expected at most {config.vocab_size}, "
                             "the vocab_size of the text transformer")
        if tokenizer.model_max_length != config.length:
            raise ValueError(f"tokenizer: got model_max_length {tokenizer.model_max_length}, expected "
                             f"{config.length}, the length of the text transformer")
        self.tokenizer, self.transformer = tokenizer, transformer

    def forward(self, prompts: list[str]) -> Tensor:
        """Text states (B, N, D) of B prompts. Raises ValueError as `tokenize` does."""
        return self.encode_ids(self.tokenize(prompts))

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Text states (B, N, D) of token ids (B, N)."""
        return self.transformer(ids.to(next(self.transformer.parameters()).device))

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Token ids as the function `tokenize` gives them."""
        return tokenize(self.tokenizer, prompts)


class MapEncoder(nn.Module):
    """tau for semantic maps: each class becomes a channel of 0 and 1, and an image transformer reads the stack.

    Raises ValueError for a transformer with another number of channels than there are classes.
    """

    def __init__(self, transformer: ImageTransformer):
        super().__init__()
        if transformer.config.channels != len(CLASSES):
            raise ValueError(f"transformer: got {transformer.config.channels} channels, expected {len(CLASSES)}, one "
                             "for each class of painting.CLASSES")
        self.transformer = transformer

    def forward(self, maps: Tensor) -> Tensor:
        """Semantic maps (B, S, S), integers -> states (B, 1 + patches, D).

        Raises ValueError for numbers that are no integers, for unknown classes, and for maps of another size.
        """
        size = self.transformer.config.image_size
        if maps.ndim != 3 or maps.shape[1:] != (size, size):
            raise ValueError(f"semantic_map: got shape {tuple(maps.shape)}, expected (batch, {size}, {size})")
        if maps.is_floating_point() or maps.numel() and not 0 <= int(maps.min()) <= int(maps.max()) < len(CLASSES):
            raise ValueError(f"semantic_map: got {maps.dtype} from {maps.min()} to {maps.max()}, expected integers "
                             f"from 0 to {len(CLASSES) - 1}, the classes of painting.CLASSES")
        channels = F.one_hot(maps.long(), len(CLASSES)).movedim(-1, 1)                    # (B, classes, S, S)
        return self.transformer(channels.to(self.transformer.class_embedding))


def only_one(**conditions):
    """(name, value) of the one condition that is not None. Raises ValueError for none or several."""
    given = [name for name, value in conditions.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"got {' and '.join(given) or 'no condition'}, expected one of {', '.join(conditions)}")
    return given[0], conditions[given[0]]


def guided(unet: nn.Module, cond: Tensor, uncond: Tensor | None = None, scale: float = 1.0) -> EpsFn:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): e_u + scale (e_c - e_u).

    cond: (B, N, D), the context that the picture should follow; uncond: (B, N, D) or (1, N, D), the one it
    should leave. Both share one call of `unet`, as the batch [uncond, cond]; two calls if their N differ. As in
    diffusers a scale of 1 or less is no guidance: `uncond` is not used and the batch not doubled. (The paper's w
    is scale - 1.) Raises ValueError for a scale that is not finite, and for an `uncond` that is missing or unlike
    `cond`.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale: got {scale}, expected a finite number; 1 is no guidance")
    if scale <= 1:
        return lambda x, t: unet(x, t, cond)
    if uncond is None or uncond.shape[2:] != cond.shape[2:] or len(uncond) not in (1, len(cond)):
        raise ValueError(f"uncond: got {None if uncond is None else tuple(uncond.shape)}, expected "
                         f"{tuple(cond.shape)} like cond, or a batch of 1")
    uncond = uncond.expand(len(cond), -1, -1)
    together = torch.cat([uncond, cond]) if uncond.shape == cond.shape else None          # (2B, N, D)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        if together is None:
            e_uncond, e_cond = unet(x, t, uncond), unet(x, t, cond)
        else:
            e_uncond, e_cond = unet(torch.cat([x, x]), t, together).chunk(2)
        return e_uncond + scale * (e_cond - e_uncond)

    return eps
