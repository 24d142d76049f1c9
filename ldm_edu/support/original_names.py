"""The names in Stable Diffusion's first files, single ones, and diffusers' names for the same tensors."""
from __future__ import annotations

import re
from dataclasses import dataclass

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.",
            "text_encoder": "cond_stage_model.transformer."}
_UNET = (
    (r"time_embed\.0", "time_embedding.linear_1"), (r"time_embed\.2", "time_embedding.linear_2"),
    (r"input_blocks\.0\.0", "conv_in"), (r"out\.0", "conv_norm_out"), (r"out\.2", "conv_out"),
    (r"middle_block\.0", "mid_block.resnets.0"), (r"middle_block\.1", "mid_block.attentions.0"),
    (r"middle_block\.2", "mid_block.resnets.1"))
_RESNET = (
    (r"in_layers\.0", "norm1"), (r"in_layers\.2", "conv1"), (r"emb_layers\.1", "time_emb_proj"),
    (r"out_layers\.0", "norm2"), (r"out_layers\.3", "conv2"), ("skip_connection", "conv_shortcut"))
_VAE = (
    (r"mid\.block_1", "mid_block.resnets.0"), (r"mid\.block_2", "mid_block.resnets.1"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.(q|k|v)", r"mid_block.attentions.0.to_\1"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"), ("norm_out", "conv_norm_out"),
    (r"block\.(\d)", r"resnets.\1"), ("nin_shortcut", "conv_shortcut"),
    (r"downsample\.conv", "downsamplers.0.conv"), (r"upsample\.conv", "upsamplers.0.conv"))


@dataclass(frozen=True)
class OriginalLayout:
    """How one network lies in a single file, the layout of Stable Diffusion's first release."""

    part: str           # one of PREFIXES
    layout: object      # diffusers', weights.Layout
    config: object      # of the network
    file: str

    def ours(self, name: str) -> str:
        name = from_original(self.part, name.removeprefix(PREFIXES[self.part]), self.config)
        return self.layout.ours(name)

    def theirs(self, name: str) -> str:
        return f"what diffusers calls {self.layout.theirs(name)}"

    def holds(self, name: str) -> bool:
        return name.startswith(PREFIXES[self.part]) and self.layout.holds(name)


def from_original(part: str, name: str, config) -> str:
    """Translate a name, without its prefix, to diffusers'. config: of the network; the text's names are the same."""
    if part == "unet":
        name = re.sub(r"(input|output)_blocks\.(\d+)\.(\d)(\.op|\.conv)?(?=\.)",
                      lambda match: _block(*match.groups(), config.layers), _renamed(name, _UNET))
        return _renamed(name, _RESNET)
    if part == "vae":
        name = re.sub(r"^encoder\.down\.(\d)", r"encoder.down_blocks.\1", name)
        top = len(config.channels) - 1
        name = re.sub(r"^decoder\.up\.(\d)", lambda match: f"decoder.up_blocks.{top - int(match[1])}", name)
        return _renamed(name, _VAE)
    return name


def _block(way: str, block: str, nth: str, sampler: str | None, layers: int) -> str:
    """input_blocks and output_blocks are counted through; in diffusers each level has its own."""
    down = way == "input"
    level, place = divmod(int(block) - down, layers + 1)
    if sampler:
        return f"down_blocks.{level}.downsamplers.0.conv" if down else f"up_blocks.{level}.upsamplers.0.conv"
    return f"{'down' if down else 'up'}_blocks.{level}.{'attentions' if nth == '1' else 'resnets'}.{place}"


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = re.sub(rf"(?<![^.]){old}(?=\.)", new, name)
    return name
