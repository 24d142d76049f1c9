"""The recorder against the layers' own output and torch's attention; maps and overlaps against brute force."""
import dataclasses
import math

import pytest
import torch
from torch import nn

from ldm_edu import DATA, clip, unet
from ldm_edu.attention_maps import Recorder, attention_weights, word_map, word_positions
from ldm_edu.autoencoder import PixelAttention
from ldm_edu.blocks import Attention, SpatialTransformer
from ldm_edu.conditioning import TextEncoder
from ldm_edu.tokenizer import END, build_tokenizer
from ldm_edu.weights import load_unet


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def shipped():
    return load_unet(DATA / "tiny-worlds" / "unet").eval()


@pytest.fixture(scope="module")
def text():
    tokenizer = build_tokenizer("a big red house and two boats at night".split(), length=32)
    config = dataclasses.replace(clip.TINY, vocab_size=(size := tokenizer.get_vocab_size()), end_id=size - 1)
    return TextEncoder(tokenizer, clip.TextTransformer(config))


def rebuilt(layer, weights, x, context):
    """What a layer gives, from its weights: weights @ V, through to_out."""
    mixed = weights @ layer.split_heads(layer.to_v(x if context is None else context))
    return layer.to_out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("context_dim, causal", [(None, False), (None, True), (24, False)])
def test_weights_are_those_of_torchs_attention(context_dim, causal):
    torch.manual_seed(0)
    layer = Attention(32, heads=4, context_dim=context_dim, causal=causal)
    theirs = nn.MultiheadAttention(32, 4, kdim=context_dim, vdim=context_dim, batch_first=True)
    with torch.no_grad():
        if context_dim is None:
            theirs.in_proj_weight.copy_(torch.cat([layer.to_q.weight, layer.to_k.weight, layer.to_v.weight]))
        else:
            for name, linear in (("q", layer.to_q), ("k", layer.to_k), ("v", layer.to_v)):
                getattr(theirs, f"{name}_proj_weight").copy_(linear.weight)
        theirs.out_proj.load_state_dict(layer.to_out.state_dict())
    x, context = randn(2, 9, 32), None if context_dim is None else randn(2, 5, context_dim, seed=1)
    seen = x if context is None else context
    later = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
    output, weights = theirs(x, seen, seen, attn_mask=later, average_attn_weights=False)
    torch.testing.assert_close(attention_weights(layer, x, context), weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(layer(x, context), output, atol=1e-6, rtol=0)


def test_recorded_weights_give_the_shipped_layers_own_output(shipped):
    calls = {}
    hooks = [module.register_forward_hook(lambda layer, args, output, name=name: calls.update({name: (args, output)}))
             for name, module in shipped.named_modules() if isinstance(module, Attention)]
    with Recorder(shipped) as recorder, torch.no_grad():
        shipped(randn(2, 4, 8, 8), 400, randn(2, 32, 128, seed=1))
        for name, ((x, *context), output) in calls.items():
            weights, = recorder.maps[name]
            found = rebuilt(recorder.layers[name], weights, x, context[0] if context else None)
            torch.testing.assert_close(found, output, atol=1e-5 * output.abs().max().item(), rtol=0)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(recorder.maps) == 22


def test_recording_changes_nothing_and_ends(shipped):
    arguments = randn(2, 4, 8, 8), 400, randn(2, 32, 128, seed=1)
    with torch.no_grad():
        before = shipped(*arguments)
        with Recorder(shipped, "cross_attn") as recorder:
            during = shipped(*arguments)
            shipped(*arguments)
        after = shipped(*arguments)
    assert torch.equal(before, during) and torch.equal(before, after)
    assert {len(calls) for calls in recorder.maps.values()} == {2}
    assert not any(module._forward_hooks for module in shipped.modules())
    assert [name.split(".")[0] for name in recorder.maps] == ["down_blocks"] * 4 + ["mid_block"] + ["up_blocks"] * 6
    with recorder, torch.no_grad():    # again: from the beginning
        shipped(*arguments)
    assert {len(calls) for calls in recorder.maps.values()} == {1}


def test_recording_ends_when_the_model_fails(shipped):
    with pytest.raises(RuntimeError, match="mat1 and mat2"), Recorder(shipped):
        shipped(randn(1, 4, 8, 8), 0, randn(1, 32, 127))
    assert not any(module._forward_hooks for module in shipped.modules())


def test_weights_carry_no_gradient_and_the_layer_does():
    layer = SpatialTransformer(32, heads=4, context_dim=24, groups=8)
    x = randn(1, 32, 4, 4).requires_grad_()
    with Recorder(layer) as recorder:
        layer(x, randn(1, 5, 24)).sum().backward()
    assert x.grad is not None and not any(calls[0].requires_grad for calls in recorder.maps.values())


def test_a_context_by_name_is_recorded():
    layer = nn.Sequential(Attention(32, 4, 24))
    with Recorder(layer) as recorder:
        layer[0](randn(1, 3, 32), context=randn(1, 5, 24))
    assert recorder.maps["0"][0].shape == (1, 4, 3, 5)


@pytest.mark.parametrize("model, which, message", [
    (PixelAttention(32, groups=8), "", r"model: got PixelAttention, expected one with an Attention"),
    (nn.Linear(3, 3), "", r"model: got Linear, expected one with an Attention whose name ends in ''"),
    (unet.UNet(unet.TINY), "cross", r"model: got UNet.*Attention whose name ends in 'cross'"),
])
def test_a_model_without_attention_is_refused(model, which, message):
    with pytest.raises(ValueError, match=message):
        Recorder(model, which)


@pytest.mark.parametrize("words, expected", [
    ("house", [4]), ("big red", [2, 3]), ("boats", [7]), ("Red House", [3, 4]), ("a", [1])])
def test_word_positions(text, words, expected):
    assert word_positions(text, "a big red house and two boats", words) == expected


@pytest.mark.parametrize("words", ["night", "boat", "red big", "", "hous", "two boats at"])
def test_a_word_that_is_not_in_the_prompt_is_named(text, words):
    with pytest.raises(ValueError, match=f"words: got '{words}', expected words of the prompt 'a big red house"):
        word_positions(text, "a big red house and two boats", words)


def test_a_word_of_several_tokens_is_found(text):
    found = word_positions(text, "a zebra at night", "zebra")
    assert found == list(range(2, 1 + text.tokenizer.encode("zebra").tokens.index(END))) and len(found) > 1


def test_word_map_against_a_loop():
    weights = randn(2, 4, 9, 7).softmax(-1)
    for size in ((3, 3), (6, 6)):
        found = word_map(weights, [2, 5], size)
        assert found.shape == (2, *size)
    small = word_map(weights, [2, 5], (3, 3))
    for b in range(2):
        for row in range(3):
            for column in range(3):
                total = sum(weights[b, head, 3 * row + column, token].item() for head in range(4) for token in (2, 5))
                assert small[b, row, column].item() == pytest.approx(total / 4, abs=1e-6)
    lit = torch.zeros(1, 1, 16, 3)
    lit[0, 0, 4 * 2 + 1, 1] = 1    # row 2, column 1 of 4
    y, x = divmod(word_map(lit, [1]).flatten().argmax().item(), 64)
    assert 32 <= y < 48 and 16 <= x < 32


def test_attention_weights_are_divided_by_the_root_of_a_heads_width():
    layer = Attention(8, heads=2)
    x = randn(1, 3, 8)
    q, k = layer.to_q(x)[0], layer.to_k(x)[0]
    scores = [[sum((q[i, c] * k[j, c]).item() for c in range(4, 8)) / math.sqrt(4) for j in range(3)] for i in range(3)]
    torch.testing.assert_close(attention_weights(layer, x)[0, 1], torch.tensor(scores).softmax(1), atol=1e-6, rtol=0)
