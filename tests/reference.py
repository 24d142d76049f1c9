"""What several tests share. The independent reference: diffusers and transformers models with random weights that hide
nothing; and pairs of pipelines, theirs and ours, with the same weights.

A freshly initialised model has zero biases, unit norms and silent branches, so most mistakes in a copy of it
leave the output as it is. Here every parameter is drawn, and the layers that write into a norm are small
enough for the norm's eps to show.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ldm_edu import autoencoder, clip, unet
from ldm_edu.conditioning import TextEncoder
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.schedule import scaled_linear_schedule
from ldm_edu.tokenizer import build_tokenizer, save_tokenizer
from ldm_edu.weights import AUTOENCODER, TEXT, UNET

# One of Stable Diffusion v1's shape, small; and ours.
UNETS = {
    "sd": unet.UNetConfig(channels=(32, 64, 96, 96), groups=16, context_dim=48, sample_size=16),
    "tiny": unet.TINY,
}
AUTOENCODERS = {
    "sd": autoencoder.AutoencoderConfig(channels=(16, 32, 64, 64), layers=2, groups=16),
    "tiny": autoencoder.TINY,
}
TEXTS = {
    "sd": clip.TextConfig(vocab_size=600, dim=48, layers=3, heads=12, mlp_dim=192, end_id=599),
    "tiny": clip.TextConfig(vocab_size=600, dim=128, layers=4, heads=4, mlp_dim=512, length=32, end_id=599),
}

# In diffusers' and transformers' names: layers that see something of order one and write into a norm, which
# get 0.03 of the usual weights; and layers on the path between two norms, which hand on what they get.
INTO_NORM = re.compile(
    r"conv_in|conv1|conv2|time_emb_proj|proj_in|to_out|ff\.net\.2|embedding\.weight|out_proj|fc2")
BETWEEN_NORMS = re.compile(r"conv_shortcut|proj_out|samplers")


def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew; returns the model, in evaluation mode, without gradients."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            fan_in = 1 if "embedding.weight" in name else parameter[0].numel()
            value = (0.7 if BETWEEN_NORMS.search(name) else 1.5) * noise / fan_in**0.5
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.2 * noise
        else:
            value = (0.006 if BETWEEN_NORMS.search(name) else 0.2) * noise
        parameter.data = 0.03 * value if INTO_NORM.search(name) else value
    return model.eval().requires_grad_(False)


def reference_unet(config: unet.UNetConfig) -> UNet2DConditionModel:
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in config.attention[::-1]]
    return UNet2DConditionModel(
        sample_size=config.sample_size, in_channels=config.in_channels, out_channels=config.out_channels,
        block_out_channels=config.channels, layers_per_block=config.layers, attention_head_dim=config.heads,
        cross_attention_dim=config.context_dim, norm_num_groups=config.groups,
        down_block_types=down, up_block_types=up)


def reference_autoencoder(config: autoencoder.AutoencoderConfig) -> AutoencoderKL:
    levels = len(config.channels)
    return AutoencoderKL(
        block_out_channels=config.channels, layers_per_block=config.layers, norm_num_groups=config.groups,
        latent_channels=config.latent_channels, scaling_factor=config.scale,
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels)


def reference_text(config: clip.TextConfig) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, intermediate_size=config.mlp_dim,
        max_position_embeddings=config.length, bos_token_id=config.end_id - 1, eos_token_id=config.end_id,
        pad_token_id=config.end_id))


def ours(reference: nn.Module, config) -> nn.Module:
    """Our model with a reference's weights."""
    layout = next(layout for layout in (UNET, AUTOENCODER, TEXT) if isinstance(config, layout.config))
    model = layout.model(config)
    model.load_state_dict({layout.ours(name): tensor for name, tensor in reference.state_dict().items()})
    return model.eval().requires_grad_(False)


def error(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / rms(expected)."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} against {tuple(expected.shape)}"
    return ((found - expected).abs().max() / expected.square().mean().sqrt()).item()


# ---- Pipelines ----

TOLERANCE = 2e-4
WORDS = "a an the big small red blue house houses boat mouse out youth night on in front of snow , .".split()
PROMPTS = ["a big red house on the snow, at night", "two small boats."]
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          steps_offset=1)

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()


@cache
def pair(size: str) -> tuple[StableDiffusionPipeline, LatentDiffusion]:
    """diffusers' pipeline and ours with the same random weights."""
    tokenizer = build_tokenizer(WORDS, TEXTS[size].length)
    text_config = replace(TEXTS[size], vocab_size=(words := tokenizer.get_vocab_size()), end_id=words - 1)
    unet = perturb(reference_unet(UNETS[size]))
    vae = perturb(reference_autoencoder(AUTOENCODERS[size]))
    text = perturb(reference_text(text_config))
    theirs = assemble(unet=unet, vae=vae, text_encoder=text, tokenizer=reference_tokenizer(tokenizer),
                      scheduler=DDIMScheduler(**SD, set_alpha_to_one=False))
    mine = LatentDiffusion(ours(unet, UNETS[size]), ours(vae, AUTOENCODERS[size]),
                           TextEncoder(tokenizer, ours(text, text_config)), scaled_linear_schedule())
    return theirs, mine


def reference_tokenizer(tokenizer) -> CLIPTokenizer:
    """transformers' tokenizer, by way of the disk."""
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return CLIPTokenizer.from_pretrained(folder)


def assemble(**parts) -> StableDiffusionPipeline:
    theirs = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def open_theirs(folder: Path) -> StableDiffusionPipeline:
    theirs = StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def draw_theirs(theirs: StableDiffusionPipeline, prompt: list[str], steps=10, guidance_scale=4.0, seed=5,
                size=(None, None), output="pt", **options) -> Tensor:
    """Their picture in our range, or their latents."""
    images = theirs(prompt, num_inference_steps=steps, guidance_scale=guidance_scale, height=size[0], width=size[1],
                    generator=torch.Generator().manual_seed(seed), output_type=output, **options).images
    return 2 * images - 1 if output == "pt" else images


def latents(mine: LatentDiffusion, *args, **options) -> Tensor:
    *_, step = mine.denoise(*args, **options)
    return step.x
