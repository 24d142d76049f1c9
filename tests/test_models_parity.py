"""Our models against diffusers and transformers; and that the comparison would notice the usual mistakes."""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from reference import (
    AUTOENCODERS,
    TEXTS,
    UNETS,
    error,
    ours,
    perturb,
    reference_autoencoder,
    reference_text,
    reference_unet,
)
from torch import Tensor, nn

from ldm_edu import blocks, unet
from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig, PixelAttention
from ldm_edu.blocks import Attention, Downsample, FeedForward, QuickGELU, ResBlock, SpatialTransformer
from ldm_edu.clip import TextTransformer
from ldm_edu.unet import UNet

TEXT_TOLERANCE, UNET_TOLERANCE, AUTOENCODER_TOLERANCE = 2e-5, 5e-5, 5e-5


class Case(NamedTuple):
    """Inputs, and what the reference makes of them."""

    config: object
    reference: nn.Module
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@cache
def unet_case(size: str, height: int = 8, width: int = 8) -> Case:
    config = UNETS[size]
    reference = perturb(reference_unet(config))
    inputs = draw(2, 4, height, width), torch.tensor([981, 37]), draw(2, 16, config.context_dim)
    return Case(config, reference, inputs, (reference(*inputs).sample,))


@cache
def autoencoder_case(size: str, height: int = 32, width: int = 32) -> Case:
    config = AUTOENCODERS[size]
    reference = perturb(reference_autoencoder(config))
    image, latent = draw(2, 3, height, width), draw(2, 4, height // 8, width // 8)
    posterior = reference.encode(image).latent_dist
    expected = posterior.mean, posterior.logvar, reference.decode(latent).sample
    return Case(config, reference, (image, latent), expected)


@cache
def text_case(size: str) -> Case:
    config = TEXTS[size]
    reference = perturb(reference_text(config))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size - 2, (3, config.length), generator=generator)
    for row, end in zip(ids, (4, 9, config.length - 1)):
        row[end:] = config.end_id
    return Case(config, reference, (ids,), (reference(ids).last_hidden_state,))


def unet_error(model: UNet, case: Case) -> float:
    return error(model(*case.inputs), case.expected[0])


def autoencoder_error(model: Autoencoder, case: Case) -> float:
    image, latent = case.inputs
    found = *model.encode(image), model.decode(latent)
    return max(error(f, e) for f, e in zip(found, case.expected, strict=True))


def text_error(model: TextTransformer, case: Case) -> float:
    return error(model(*case.inputs), case.expected[0])


# ---- Equal ----

@pytest.mark.parametrize("size", TEXTS)
def test_text_states_equal_transformers(size):
    case = text_case(size)
    assert text_error(ours(case.reference, case.config), case) < TEXT_TOLERANCE


@pytest.mark.parametrize("size, height, width", [
    ("sd", 16, 16), ("sd", 8, 24), ("sd", 9, 13), ("tiny", 8, 8), ("tiny", 5, 12)])
def test_unet_equals_diffusers(size, height, width):
    case = unet_case(size, height, width)
    assert unet_error(ours(case.reference, case.config), case) < UNET_TOLERANCE


@pytest.mark.parametrize("size, height, width", [
    ("sd", 32, 32), ("sd", 24, 56), ("tiny", 64, 64), ("tiny", 48, 32)])
def test_autoencoder_equals_diffusers(size, height, width):
    case = autoencoder_case(size, height, width)
    assert autoencoder_error(ours(case.reference, case.config), case) < AUTOENCODER_TOLERANCE


@pytest.mark.parametrize("t", [500, 499.75, torch.tensor(500), torch.tensor([499.75])])
def test_one_timestep_for_all_may_be_a_number_and_fractional(t):
    case = unet_case("sd")
    x, _, context = case.inputs
    expected = case.reference(x, float(t), context).sample
    assert error(ours(case.reference, case.config)(x, t, context), expected) < UNET_TOLERANCE


def test_logvar_is_clamped_like_diffusers():
    case = autoencoder_case("sd")
    image = 0.1 * case.inputs[0]
    reference = perturb(reference_autoencoder(case.config))
    reference.quant_conv.bias[4:] = torch.tensor([-40.0, 30.0, 0.0, 5.0])
    mean, logvar = ours(reference, case.config).encode(image)
    expected = reference.encode(image).latent_dist
    assert (logvar == -30).any() and (logvar == 20).any()
    torch.testing.assert_close(logvar, expected.logvar, rtol=0, atol=5e-5)
    torch.testing.assert_close(mean, expected.mean, rtol=0, atol=5e-5)


def test_latents_are_scaled_and_sampled_like_diffusers():
    case = autoencoder_case("sd")
    model, image = ours(case.reference, case.config), case.inputs[0]
    posterior = case.reference.encode(image).latent_dist
    sample = posterior.sample(torch.Generator().manual_seed(7))
    for found, expected in [
        (model.to_latent(image), 0.18215 * posterior.mean),
        (model.to_latent(image, torch.Generator().manual_seed(7)), 0.18215 * sample),
        (model.from_latent(posterior.mean), case.reference.decode(posterior.mean / 0.18215).sample),
    ]:
        assert error(found, expected) < AUTOENCODER_TOLERANCE


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_autoencoder_of_any_depth(levels):
    config = AutoencoderConfig(channels=(16, 32, 48)[:levels], layers=1, groups=8)
    reference = perturb(reference_autoencoder(config))
    model, image = ours(reference, config), draw(1, 3, 16, 24)
    assert model.factor == 2 ** (levels - 1)
    assert error(model.encode(image)[0], reference.encode(image).latent_dist.mean) < AUTOENCODER_TOLERANCE


def test_a_prompt_shorter_than_the_context_has_the_same_first_states():
    case = text_case("sd")
    model, ids = ours(case.reference, case.config), case.inputs[0]
    assert error(model(ids[:, :7]), case.expected[0][:, :7]) < TEXT_TOLERANCE


# ---- The comparison notices ----

def each(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    found = [module for module in model.modules() if isinstance(module, kind)]
    assert found, f"no {kind.__name__} to break"
    return found


def set_eps(kind: type[nn.Module], names: tuple[str, ...], eps: float):
    """Break the norms called `names` of every `kind`."""
    def mistake(model, _):
        for module in each(model, kind):
            for name in names:
                getattr(module, name).eps = eps
    return mistake


def set_everywhere(kind: type[nn.Module], name: str, value):
    def mistake(model, _):
        for module in each(model, kind):
            setattr(module, name, value(module) if callable(value) else value)
    return mistake


def replace(owner, name: str, make):
    """Put make(original) in the place of an attribute of a class or a module."""
    def mistake(_, monkeypatch):
        monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    return mistake


def sine_first(embed):
    return lambda t, dim: embed(t, dim).roll(dim // 2, dims=1)


def frequencies_to_the_end(embed):
    """As if divided by half - 1, the variant with a frequency shift of one."""
    def embedding(t, dim):
        angle = t.float()[:, None] * torch.logspace(0, -4, dim // 2)
        return torch.cat([angle.cos(), angle.sin()], dim=1)
    return embedding


def halves_swapped(_):
    def forward(self, x):
        gate, x = self.proj(x).chunk(2, dim=-1)
        return self.out(x * F.gelu(gate))
    return forward


def no_silu_before_time(_):
    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.time_proj(time)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))
    return forward


UNET_MISTAKES = {
    "eps of the residual norms": set_eps(ResBlock, ("norm1", "norm2"), 1e-6),
    "eps of the output norm": set_eps(UNet, ("norm_out",), 1e-6),
    "eps of the transformers' group norm": set_eps(SpatialTransformer, ("norm",), 1e-5),
    "eps of the layer norms": set_eps(blocks.TransformerBlock, ("norm1", "norm2", "norm3"), 1e-6),
    "tanh-GELU": replace(F, "gelu", lambda gelu: partial(gelu, approximate="tanh")),
    "GEGLU halves swapped": replace(FeedForward, "forward", halves_swapped),
    "head width 8, not 8 heads": set_everywhere(Attention, "heads", lambda a: a.to_q.out_features // 8),
    "no root of d": replace(F, "scaled_dot_product_attention", lambda attend: partial(attend, scale=1.0)),
    "sine before cosine": replace(unet, "timestep_embedding", sine_first),
    "frequencies shifted": replace(unet, "timestep_embedding", frequencies_to_the_end),
    "t off by one": replace(unet, "timestep_embedding", lambda embed: lambda t, dim: embed(t + 1, dim)),
    "no SiLU before the time projection": replace(ResBlock, "forward", no_silu_before_time),
    "padding right and bottom only": set_everywhere(Downsample, "padding", (0, 1, 0, 1)),
    "skip before x": replace(torch, "cat", lambda cat: lambda tensors, dim: cat(tensors[::-1], dim)),
}
AUTOENCODER_MISTAKES = {
    "eps of the attention norm": set_eps(PixelAttention, ("group_norm",), 1e-5),
    "eps of the residual norms": set_eps(ResBlock, ("norm1", "norm2"), 1e-5),
    "eps of the encoder's output norm": lambda model, _: setattr(model.encoder.norm_out, "eps", 1e-5),
    "eps of the decoder's output norm": lambda model, _: setattr(model.decoder.norm_out, "eps", 1e-5),
    "symmetric padding": set_everywhere(Downsample, "padding", (1, 1, 1, 1)),
    "padding left and top": set_everywhere(Downsample, "padding", (1, 0, 1, 0)),
    "attention of 4 heads": set_everywhere(PixelAttention, "heads", 4),
    "no attention bias": lambda model, _: [nn.init.zeros_(a.to_v.bias) for a in each(model, PixelAttention)],
    "no post_quant_conv": set_everywhere(Autoencoder, "post_quant_conv", lambda _: nn.Identity()),
}
TEXT_MISTAKES = {
    "no causal mask": set_everywhere(Attention, "causal", False),
    "GELU for quick-GELU": replace(QuickGELU, "forward", lambda _: lambda self, x: F.gelu(x)),
    "eps of the norms": set_everywhere(nn.LayerNorm, "eps", 1e-6),
    "no final norm": set_everywhere(TextTransformer, "final_norm", lambda _: nn.Identity()),
    "half the heads": set_everywhere(Attention, "heads", lambda a: a.heads // 2),
    "positions off by one": lambda model, _: model.position_embedding.weight.copy_(
        model.position_embedding.weight.roll(1, dims=0)),
}


@pytest.mark.parametrize("mistake", UNET_MISTAKES)
def test_unet_mistake_shows(mistake, monkeypatch):
    case = unet_case("sd", 9, 13)
    model = ours(case.reference, case.config)
    UNET_MISTAKES[mistake](model, monkeypatch)
    assert unet_error(model, case) > UNET_TOLERANCE


@pytest.mark.parametrize("mistake", AUTOENCODER_MISTAKES)
def test_autoencoder_mistake_shows(mistake, monkeypatch):
    case = autoencoder_case("sd")
    model = ours(case.reference, case.config)
    AUTOENCODER_MISTAKES[mistake](model, monkeypatch)
    assert autoencoder_error(model, case) > AUTOENCODER_TOLERANCE


@pytest.mark.parametrize("mistake", TEXT_MISTAKES)
def test_text_mistake_shows(mistake, monkeypatch):
    case = text_case("sd")
    model = ours(case.reference, case.config)
    TEXT_MISTAKES[mistake](model, monkeypatch)
    assert text_error(model, case) > TEXT_TOLERANCE
