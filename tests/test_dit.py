"""The diffusion transformer: its block and positions against diffusers', the rest against loops; and its folder."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor

from ldm_edu import DATA
from ldm_edu.blocks import timestep_embedding
from ldm_edu.conditioning import guided
from ldm_edu.dit import DiT, DiTBlock, DiTConfig, position_embedding
from ldm_edu.weights import UNET, load_dit, load_module, save_module

SMALL = DiTConfig(dim=32, layers=2, heads=4, context_dim=24, patch_size=2)
THEIRS = (("attn.to_out", "attn1.to_out.0"), ("attn.to_", "attn1.to_"), ("mlp.fc1", "ff.net.0.proj"),
          ("mlp.fc2", "ff.net.2"), ("modulation", "norm1.linear"))    # ours, diffusers'


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with every parameter drawn, for a fresh one has silent branches."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 0.7 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.3
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def inputs(config: DiTConfig = SMALL, batch: int = 3, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return (randn(batch, config.channels, height, width), torch.tensor([0.0, 0.3333, 1.0])[:batch],
            randn(batch, 5, config.context_dim, seed=1))


def test_the_block_is_diffusers():
    """Their block of DiT, the same random weights, its modulation fed the same vector."""
    ours = drawn(DiTBlock(32, 4))
    theirs = BasicTransformerBlock(32, 4, 8, activation_fn="gelu-approximate", attention_bias=True,
                                   norm_type="ada_norm_zero", norm_elementwise_affine=False, num_embeds_ada_norm=3)
    theirs.norm3.eps = 1e-6    # DiTTransformer2DModel hands 1e-5 to this norm; the paper's code has 1e-6 for both
    time = randn(3, 32, seed=4)
    del theirs.norm1.emb    # of timesteps and classes
    theirs.norm1.emb = lambda timestep, classes, hidden_dtype: time
    names = {}
    for name in ours.state_dict():
        old, new = next(pair for pair in THEIRS if name.startswith(pair[0]))
        names[new + name.removeprefix(old)] = name
    wanted = {name for name, _ in theirs.named_parameters()}
    assert names.keys() == wanted
    theirs.load_state_dict({theirs_: ours.state_dict()[mine] for theirs_, mine in names.items()}, strict=False)
    x = randn(3, 20, 32, seed=5)
    expected = theirs(x, timestep=torch.zeros(3), class_labels=torch.zeros(3))
    assert (expected - x).abs().mean() > 0.1
    torch.testing.assert_close(ours(x, time), expected, rtol=1e-5, atol=1e-5)


def test_positions_are_diffusers():
    """Theirs has the columns first, and sines before cosines."""
    ours = position_embedding(8, 8, 32).numpy()
    rows, columns = np.split(get_2d_sincos_pos_embed(32, 8, base_size=8), 2, axis=1)[::-1]
    expected = np.concatenate([half[:, [*range(8, 16), *range(8)]] for half in (rows, columns)], axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_whole_is_the_sum_of_its_parts(patch_size):
    """Patches cut and put back by loops, every token by itself, on a picture that is higher than wide."""
    config = replace(SMALL, patch_size=patch_size)
    model, p = drawn(DiT(config)), patch_size
    x, t, context = inputs(config, height=8, width=4)
    time = model.time_mlp(timestep_embedding(1000 * t, config.dim))
    tokens = [context @ model.context_in.weight.T + model.context_in.bias]
    where = [(i, j) for i in range(8 // p) for j in range(4 // p)]
    for i, j in where:
        patch = x[:, :, p * i:p * i + p, p * j:p * j + p].flatten(1)
        position = torch.cat([timestep_embedding(torch.tensor([k]), config.dim // 2)[0] for k in (i, j)])
        tokens.append((patch @ model.patch_in.weight.flatten(1).T + model.patch_in.bias + position)[:, None])
    tokens = torch.cat(tokens, dim=1)
    for block in model.blocks:
        tokens = block(tokens, time)
    shift, scale = model.modulation_out(torch.nn.functional.silu(time)).chunk(2, dim=1)
    expected = torch.full_like(x, torch.nan)
    for (i, j), token in zip(where, tokens[:, 5:].unbind(1)):
        token = (token - token.mean(1, keepdim=True)) / (token.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        numbers = model.patch_out(token * (1 + scale) + shift).view(3, 4, p, p)
        expected[:, :, p * i:p * i + p, p * j:p * j + p] = numbers
    torch.testing.assert_close(model(x, t, context), expected, rtol=1e-5, atol=1e-5)


def test_it_starts_at_zero_and_every_block_as_the_identity():
    torch.manual_seed(0)
    model, x = DiT(SMALL), randn(3, 9, 32)
    assert model(*inputs()).abs().max() == 0
    assert torch.equal(model.blocks[0](x, randn(3, 32, seed=2)), x)


def test_every_parameter_learns_and_every_input_counts():
    model = drawn(DiT(SMALL)).requires_grad_(True)
    x, t, context = inputs()
    model(x, t, context).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    with torch.no_grad():
        plain = model(x, t, context)
        changed = x.clone()
        changed[:, :, 0, 0] += 1
        for other in (model(changed, t, context), model(x, t + 0.05, context), model(x, t, context.flip(1) * 1.5)):
            assert ((other - plain).abs().amax((1, 2, 3)) > 1e-4).all()
        assert ((model(changed, t, context) - plain)[:, :, 7, 7].abs() > 1e-6).any()    # far away


def test_one_time_for_all_and_guidance_work_as_with_the_unet():
    model, (x, _, context) = drawn(DiT(SMALL)), inputs()
    alone = torch.cat([model(x[i:i + 1], 0.25, context[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x, torch.tensor(0.25), context), alone, rtol=1e-5, atol=1e-5)
    uncond = randn(1, 5, 24, seed=7)
    e_u, e_c = model(x, 0.25, uncond.expand(3, -1, -1)), model(x, 0.25, context)
    found = guided(model, context, uncond, 4.0)(x, torch.tensor(0.25))
    torch.testing.assert_close(found, e_u + 4 * (e_c - e_u), rtol=1e-4, atol=1e-4)


def test_the_shipped_size():
    """At most three million parameters, six megabytes."""
    assert sum(p.numel() for p in DiT().parameters()) < 3.0e6


@pytest.mark.parametrize("sizes", [dict(dim=30, heads=4), dict(dim=30, heads=5), dict(dim=48, heads=5)])
def test_sizes_that_do_not_divide_are_refused(sizes):
    with pytest.raises(ValueError, match="dim: got .*expected a multiple of heads"):
        DiTConfig(**sizes)


# ---- On disk ----

def test_a_folder_keeps_it(tmp_path):
    model = drawn(DiT(SMALL))
    save_module(model, tmp_path / "dit")
    opened = load_dit(tmp_path / "dit")
    assert opened.config == SMALL and torch.equal(opened(*inputs()), model(*inputs()))
    save_module(model, tmp_path / "half", torch.float16)
    torch.testing.assert_close(load_dit(tmp_path / "half")(*inputs()), model(*inputs()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("key, value", [("prediction_type", "epsilon"), ("_class_name", "SD3Transformer2DModel"),
                                        ("hidden_size", "32")])
def test_another_model_is_refused_by_name(tmp_path, key, value):
    save_module(drawn(DiT(SMALL)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json: .*{key} = {json.dumps(value)}"):
        load_dit(tmp_path)


def test_a_unet_is_no_dit_nor_a_dit_a_unet(tmp_path):
    with pytest.raises(ValueError, match="config.json: "):
        load_dit(DATA / "tiny-worlds/unet")
    save_module(drawn(DiT(SMALL)), tmp_path)
    with pytest.raises(ValueError, match="config.json: "):
        load_module(UNET, tmp_path)
