"""A CLIP tokenizer for a small vocabulary: byte-pair encoding whose every word is one token."""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .support.checks import expect

if TYPE_CHECKING:
    from transformers import CLIPTokenizer  # takes seconds to import, so it is imported where it is needed

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"    # how CLIP cuts text into words


def build_tokenizer(words: Iterable[str], length: int = 32) -> CLIPTokenizer:
    """Build a CLIP tokenizer in which each of `words` is one token; other words fall back to parts.

    Laid out like CLIP's: 256 bytes, 256 bytes that end a word, the merges of byte-pair encoding (arXiv:1508.07909),
    start, and end, which also pads. Case is ignored. length: tokens per prompt, start and end included.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    words = sorted({word.lower() for word in words})
    expect(bool(words), "words", "none", "at least one")
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
    with tempfile.TemporaryDirectory() as folder:    # through files, which every version of transformers reads
        bpe.model.save(folder)
        pairs = (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]    # below a header
        tokens = dict.fromkeys([*alphabet, *ends, *(pair.replace(" ", "") for pair in pairs), _START, _END])
        vocabulary = json.dumps({token: i for i, token in enumerate(tokens)})
        (Path(folder) / "vocab.json").write_text(vocabulary, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def load_tokenizer(folder: str | os.PathLike) -> CLIPTokenizer:
    """Open the tokenizer in a folder that transformers wrote."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: str | os.PathLike) -> None:
    """Write the files of `tokenizer` for transformers 4 (vocab.json, merges.txt) and 5 (tokenizer.json)."""
    tokenizer.save_pretrained(folder)
    if not (Path(folder) / "merges.txt").exists():
        tokenizer.backend_tokenizer.model.save(str(folder))


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids (B, N), int64: start, words, end, padding up to N. Raises ValueError for a prompt that is too long."""
    length, pad = tokenizer.model_max_length, tokenizer.pad_token_id
    rows = tokenizer(list(prompts), verbose=False).input_ids
    for prompt, row in zip(prompts, rows):
        if len(row) > length:
            raise ValueError(f"prompt: got {len(row)} tokens in {prompt!r}, expected at most {length}, start and end "
                             f"included; {tokenizer.decode(row[length - 1:-1])!r} would be cut off")
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])
