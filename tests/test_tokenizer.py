"""The tokenizer against transformers' CLIPTokenizer: the same ids, from the same files, in both directions."""
import random

import pytest
import torch
from reference import PROMPTS, WORDS, pair
from transformers import CLIPTokenizerFast as CLIPTokenizer  # in transformers 5 the same; 4's other is in Python

from ldm_edu import DATA
from ldm_edu.tokenizer import build_tokenizer, load_tokenizer, save_tokenizer, tokenize

SHIPPED = DATA / "tiny-worlds/tokenizer"
SCRAPS = "abcXYZ éàß日本語🏠'’s't  \t\n<|endoftext|>,.!?12½ﬁ-_"


def ids(tokenizer, text: str) -> list[int]:
    """Those of `text`, start and end included, without padding."""
    found = tokenizer.encode(text)
    return [i for i, real in zip(found.ids, found.attention_mask) if real]


def odd_texts(count: int) -> list[str]:
    """Words that it knows among scraps that it does not, with a fixed seed."""
    rng = random.Random(0)
    return ["".join(rng.choice(SCRAPS) if rng.random() < 0.4 else f" {rng.choice(WORDS)} "
                    for _ in range(rng.randint(0, 9))) for _ in range(count)]


def test_each_word_is_one_token_and_others_fall_back_to_letters():
    tokenizer = build_tokenizer(WORDS)

    def tokens(text):
        return tokenizer.encode(text).tokens[1:len(ids(tokenizer, text)) - 1]

    for word in {"a", "house", "houses", "mouse", "youth", "boat", ",", "."}:
        assert tokens(word) == [word + "</w>"]
    assert tokens("A Big HOUSE") == ["a</w>", "big</w>", "house</w>"]
    assert tokens("a mouse's") == ["a</w>", "mouse</w>", "'", "s</w>"]
    assert tokens("zyx") == ["z", "y", "x</w>"]
    assert tokenizer.decode(ids(tokenizer, "zebra été 7 🏠")).strip() == "zebra été 7 🏠"
    size, full = tokenizer.get_vocab_size(), tokenizer.encode("").ids
    assert full == [size - 2] + 31 * [size - 1]    # start; the end also pads


def test_the_same_words_make_the_same_tokenizer():
    """Every time: a trainer that breaks ties by the order of a hash table passes once in a while."""
    tokenizer = build_tokenizer(WORDS)
    for _ in range(10):
        again = build_tokenizer([word.upper() for word in reversed(WORDS)] + WORDS)
        assert again.to_str() == tokenizer.to_str()


@pytest.mark.parametrize("files", ["ours", "theirs", "the shipped"])
def test_a_tokenizer_survives_the_disk_and_equals_transformers(files, tmp_path):
    """transformers 4 writes vocab.json and merges.txt, as we do; transformers 5 writes tokenizer.json instead."""
    mine = load_tokenizer(SHIPPED) if files == "the shipped" else build_tokenizer(WORDS, length=20)
    save_tokenizer(mine, tmp_path)
    theirs = CLIPTokenizer.from_pretrained(SHIPPED if files == "the shipped" else tmp_path)
    if files == "theirs":
        for path in tmp_path.iterdir():
            path.unlink()
        theirs.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").exists()
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == mine.get_vocab() == theirs.get_vocab()
    assert again.padding == mine.padding and theirs.model_max_length == mine.padding["length"]
    texts = ["a big red house", "", "two zebras, the youth's été 🏠!?", "A\n  mouse", "e\u0301te\u0301"]
    for text in texts + odd_texts(500):
        expected = theirs(text, verbose=False).input_ids
        assert ids(mine, text) == ids(again, text) == expected, text
        assert mine.decode(expected).strip() == theirs.decode(expected, skip_special_tokens=True).strip()


def test_a_tokenizer_of_an_earlier_save_is_not_read_again(tmp_path):
    """transformers 5 and we read tokenizer.json first, and it would hold other words."""
    CLIPTokenizer.from_pretrained(SHIPPED).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    save_tokenizer(mine := build_tokenizer(WORDS), tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == mine.get_vocab()
    assert CLIPTokenizer.from_pretrained(tmp_path).get_vocab() == mine.get_vocab()


def test_ids_are_those_that_diffusers_makes():
    theirs, mine = pair("sd")
    prompts = [*PROMPTS, "", "the zebra"]
    expected = theirs.tokenizer(prompts, padding="max_length", max_length=theirs.tokenizer.model_max_length,
                                truncation=True, return_tensors="pt").input_ids
    assert torch.equal(tokenize(mine.text.tokenizer, prompts), expected)
    full = "a " * 75
    assert tokenize(mine.text.tokenizer, [full])[0, -2:].tolist() == theirs.tokenizer(full).input_ids[-2:]


def test_a_folder_that_is_no_clip_tokenizer_is_refused(tmp_path):
    save_tokenizer(build_tokenizer(WORDS), tmp_path)
    config = (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config.replace('"pad_token": "<|endoftext|>"', '"pad_token": "!"'))
    with pytest.raises(ValueError, match="tokenizer: got .* padding with '!', expected CLIP's tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nno such tokens here\n")
    with pytest.raises(ValueError, match="has a damaged tokenizer: "):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="neither vocab.json and merges.txt nor tokenizer.json"):
        load_tokenizer(tmp_path)



def test_no_words_no_tokenizer():
    with pytest.raises(ValueError, match="words: got none"):
        build_tokenizer([])
