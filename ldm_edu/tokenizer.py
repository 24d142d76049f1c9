"""A CLIP tokenizer for a small vocabulary: byte-pair encoding whose every word is one token."""
from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from .support.checks import expect
from .support.files import read_json, write_json

START, END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"    # how CLIP cuts text into words


def build_tokenizer(words: Iterable[str], length: int = 32) -> Tokenizer:
    """Build a CLIP tokenizer in which each of `words` is one token; other words fall back to parts.

    Laid out like CLIP's: 256 bytes, 256 bytes that end a word, the merges of byte-pair encoding (arXiv:1508.07909),
    start, and end, which also pads. Case is ignored. length: tokens per prompt, start and end included.
    """
    words = sorted({word.lower() for word in words})
    expect(bool(words), "words", "none", "at least one")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [c + "</w>" for c in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = _words()
    learner.train_from_iterator(words, trainers.BpeTrainer(
        vocab_size=10**6, min_frequency=0, show_progress=False, end_of_word_suffix="</w>",
        special_tokens=ends))    # which fixes their order, and with it that of equally frequent pairs
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *ends, *map("".join, merges), START, END])
    return clip_tokenizer({token: i for i, token in enumerate(tokens)}, merges, length)


def clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], length: int) -> Tokenizer:
    """Assemble CLIP's tokenizer: lower case, words, bytes, merges; start before, end behind, padded to `length`."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = _words()
    start, end = vocabulary[START], vocabulary[END]
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.RobertaProcessing((END, end), (START, start), trim_offsets=False,
                                                            add_prefix_space=False)
    return _padded(tokenizer, length)


def _padded(tokenizer: Tokenizer, length: int) -> Tokenizer:
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(END), pad_token=END)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return tokenizer


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_CLIP_WORD), "removed", invert=True),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False)])


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Open the CLIP tokenizer in a folder that transformers or we wrote.

    Raises FileNotFoundError for what is not there; ValueError for a damaged file and for another kind of tokenizer.
    """
    folder = Path(folder)
    length, pad = map(read_json(folder / "tokenizer_config.json").get, ("model_max_length", "pad_token"))
    whole, parts = folder / "tokenizer.json", [folder / "vocab.json", folder / "merges.txt"]
    if not whole.exists() and not all(path.exists() for path in parts):
        raise FileNotFoundError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json")
    try:
        tokenizer = (Tokenizer.from_file(str(whole)) if whole.exists()
                     else clip_tokenizer(*models.BPE.read_file(*map(str, parts)), length))
    except Exception as error:    # the library raises nothing narrower
        raise ValueError(f"{folder} has a damaged tokenizer: {error}") from error
    pad = pad["content"] if isinstance(pad, dict) else pad or END
    expect(pad == END and tokenizer.token_to_id(END) is not None, "tokenizer", f"{folder} padding with {pad!r}",
           f"CLIP's tokenizer, which pads with {END!r}")
    return _padded(tokenizer, length)


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike) -> None:
    """Write the files that transformers' `CLIPTokenizer` reads: vocab.json, merges.txt, tokenizer_config.json."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "tokenizer.json").unlink(missing_ok=True)    # of an earlier save; it would be read first
    tokenizer.model.save(str(folder))
    write_json(Path(folder) / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.padding["length"],
        "bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END})


def tokenize(tokenizer: Tokenizer, prompts: list[str]) -> Tensor:
    """Token ids (B, N), int64: start, words, end, padding up to N. Raises ValueError for a prompt that is too long."""
    length, rows = tokenizer.padding["length"], tokenizer.encode_batch_fast(list(prompts))
    for prompt, row in zip(prompts, rows):
        if len(row) > length:
            raise ValueError(f"text: got {len(row)} tokens in {prompt!r}, expected at most {length}, start and end "
                             f"included; {tokenizer.decode(row.ids[length - 1:-1]).strip()!r} would be cut off")
    return torch.tensor([row.ids for row in rows])
