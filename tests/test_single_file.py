"""A single file in Stable Diffusion's original layout, read as diffusers' own converters read it."""
import re

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from reference import PROMPTS, error, latents, pair
from torch import Tensor

from ldm_edu.checkpoint import load_single_file
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.support.files import write_tensors
from ldm_edu.tokenizer import save_tokenizer
from ldm_edu.weights import AUTOENCODER, TEXT, UNET

VAE_NAMES = {
    "down_blocks": "down", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm", "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.attentions.0.to_": "mid.attn_1.", "resnets": "block", "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample", "upsamplers.0": "upsample", "conv_norm_out": "norm_out"}


def original_unet(tensors: dict[str, Tensor], config) -> dict[str, Tensor]:
    """diffusers' tensors by the names that CompVis gave them, from its model's loops over blocks."""
    modules, layers, levels = {"conv_in": "input_blocks.0.0"}, config.layers, len(config.channels)
    count = 1
    for level in range(levels):
        for j in range(layers):
            modules[f"down_blocks.{level}.resnets.{j}"] = f"input_blocks.{count}.0"
            modules[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{count}.1"
            count += 1
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
        count += 1
    modules |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
                "mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2",
                "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    count = 0
    for level, attends in enumerate(reversed(config.attention)):
        for j in range(layers + 1):
            modules[f"up_blocks.{level}.resnets.{j}"] = f"output_blocks.{count}.0"
            modules[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{count}.1"
            count += 1
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{count - 1}.{1 + attends}.conv"
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    found = {}
    for name, value in tensors.items():
        module = max((m for m in modules if name.startswith(m + ".")), key=len)
        rest = name.removeprefix(module + ".")
        if ".resnets." in module:
            part, kind = rest.split(".")
            rest = f"{inside[part]}.{kind}"
        found[f"model.diffusion_model.{modules[module]}.{rest}"] = value
    return found


def original_vae(tensors: dict[str, Tensor], config) -> dict[str, Tensor]:
    found, top = {}, len(config.channels) - 1
    for name, value in tensors.items():
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{top - int(m[1])}", name)
        for new, old in VAE_NAMES.items():
            name = name.replace(new, old)
        if "attn_1" in name and value.ndim == 2:    # a 1 x 1 convolution there
            value = value[:, :, None, None]
        found[f"first_stage_model.{name}"] = value
    return found


@pytest.fixture(scope="module", params=["sd", "tiny"])
def single(request, tmp_path_factory):
    """(path, our model with the same weights, the tensors in the file)"""
    _, mine = pair(request.param)
    unet = {UNET.theirs(name): value for name, value in mine.unet.state_dict().items()}
    vae = {AUTOENCODER.theirs(name): value for name, value in mine.autoencoder.state_dict().items()}
    text = {TEXT.theirs(name): value for name, value in mine.text.transformer.state_dict().items()}
    tensors = original_unet(unet, mine.unet.config) | original_vae(vae, mine.autoencoder.config)
    tensors |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(3)[None]
    tensors |= {"betas": torch.zeros(1000), "model_ema.decay": torch.zeros(())}    # what else such a file holds
    folder = tmp_path_factory.mktemp(request.param)
    write_tensors(folder / "v1.safetensors", tensors)
    save_tokenizer(mine.text.tokenizer, folder / "tokenizer")
    return folder / "v1.safetensors", mine, tensors, (unet, vae)


def test_the_names_are_those_that_diffusers_converts(single):
    _, mine, tensors, (unet, vae) = single
    config = {"layers_per_block": mine.unet.config.layers}
    found = convert_ldm_unet_checkpoint(dict(tensors), config)
    assert found.keys() == unet.keys() and all(torch.equal(found[name], unet[name]) for name in unet)
    kinds = [0] * len(mine.autoencoder.config.channels)
    found = convert_ldm_vae_checkpoint(dict(tensors), {"down_block_types": kinds, "up_block_types": kinds})
    assert found.keys() == vae.keys() and all(torch.equal(found[name], vae[name]) for name in vae)


def test_the_same_model_is_opened(single):
    path, mine, *_ = single
    configs = mine.unet.config, mine.autoencoder.config, mine.text.transformer.config
    found = LatentDiffusion(**load_single_file(path, torch.float32, "cpu", configs))
    for part in ("unet", "autoencoder", "text"):
        expected = getattr(mine, part).state_dict()
        for name, value in getattr(found, part).state_dict().items():
            assert torch.equal(value, expected[name]), (part, name)
    asked = dict(steps=2, seed=1)
    assert error(latents(found, PROMPTS, **asked), latents(mine, PROMPTS, **asked)) < 1e-4


def test_a_file_of_another_model_is_named(single, tmp_path):
    """Sizes of Stable Diffusion v1 are expected; a pickle is not opened."""
    path, *_ = single
    with pytest.raises(ValueError, match=r"v1.safetensors: .*what diffusers calls .*(has shape|is missing)"):
        LatentDiffusion.from_pretrained(path)
    (tmp_path / "v1.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="v1.ckpt is a pickle, which can run any code"):
        LatentDiffusion.from_pretrained(tmp_path / "v1.ckpt")
