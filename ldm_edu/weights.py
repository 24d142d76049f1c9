"""One network on disk: config.json and a safetensors file, as diffusers and transformers write and read them.

Short tables translate names, both ways. Loading is strict: every tensor has a place and a source, or nothing is loaded.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from .autoencoder import Autoencoder, AutoencoderConfig
from .clip import ImageConfig, ImageTransformer, TextConfig, TextTransformer
from .dit import DiT, DiTConfig
from .support.checks import refuse
from .support.files import read_json, shapes_of, stream_tensors, write_json, write_tensors
from .support.hub import weights_file
from .support.skeleton import skeleton
from .unet import UNet, UNetConfig

# (ours, theirs): whole parts of a dotted name; * is one part or a piece of one, the same on both sides.
IMAGE_NAMES = (
    ("time_mlp.0", "time_embedding.linear_1"),
    ("time_mlp.2", "time_embedding.linear_2"),
    ("time_proj", "time_emb_proj"),
    ("shortcut", "conv_shortcut"),
    ("mid_block.attention", "mid_block.attentions.0"),
    ("block", "transformer_blocks.0"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    ("to_out", "to_out.0"),
    ("ff.proj", "ff.net.0.proj"),
    ("ff.out", "ff.net.2"),
    ("*sample", "*samplers.0"),
    ("norm_out", "conv_norm_out"),
)
CLIP_NAMES = (
    ("*_embedding", "embeddings.*_embedding"),
    ("blocks", "encoder.layers"),
    ("attn.to_*", "self_attn.*_proj"),
    ("norm*", "layer_norm*"),
    ("final_norm", "final_layer_norm"),
    ("pre_norm", "pre_layrnorm"),    # so spelled there
    ("post_norm", "post_layernorm"),
)
# Autoencoders saved before diffusers 0.18 spell their attention so; (theirs then, theirs now).
OLD_NAMES = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


def rename(name: str, pairs) -> str:
    """Apply (from, to) pairs of dotted-name parts in order."""
    for old, new in pairs:
        name = _part(old).sub(new.replace("*", r"\1"), name)
    return name


@cache
def _part(old: str) -> re.Pattern:
    return re.compile(r"(?<![^.])" + re.escape(old).replace(r"\*", r"(\w+)") + r"(?![^.])")


@dataclass(frozen=True)
class Layout:
    """How one kind of network lies on disk."""

    model: type[nn.Module]
    config: type
    file: str
    names: tuple[tuple[str, str], ...]
    sizes: dict[str, str]               # field of our config -> key of theirs
    fixed: dict                         # their keys for which we implement one value
    derive: Callable[..., dict] = lambda config: {}    # our config -> their keys that follow from it
    recover: Callable[[dict], dict] = lambda found: {}    # their config -> our fields that no single key holds
    absent: dict = field(default_factory=dict)    # their keys that older files leave out
    ignored: tuple[str, ...] = ()       # their keys that change no output
    prefix: str = ""                    # of all their tensor names; transformers also reads names without it

    def ours(self, name: str) -> str:
        back = tuple((theirs, ours) for ours, theirs in reversed(self.names))
        return rename(name.removeprefix(self.prefix), OLD_NAMES + back)

    def theirs(self, name: str) -> str:
        return self.prefix + rename(name, self.names)

    def holds(self, name: str) -> bool:
        return not name.endswith("position_ids")    # in files of older transformers: just 0, 1, 2, …


UNET = Layout(
    UNet, UNetConfig, "diffusion_pytorch_model.safetensors", IMAGE_NAMES,
    sizes=dict(in_channels="in_channels", out_channels="out_channels", channels="block_out_channels",
               layers="layers_per_block", heads="attention_head_dim",    # which counts them, in v1
               context_dim="cross_attention_dim", groups="norm_num_groups", sample_size="sample_size"),
    derive=lambda config: dict(
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)]),
    recover=lambda found: dict(
        attention=tuple(kind != "DownBlock2D" for kind in found.get("down_block_types", ()))),
    fixed=dict(_class_name="UNet2DConditionModel", act_fn="silu", norm_eps=1e-5, downsample_padding=1,
               flip_sin_to_cos=True, freq_shift=0, mid_block_type="UNetMidBlock2DCrossAttn",
               mid_block_scale_factor=1, transformer_layers_per_block=1, conv_in_kernel=3, conv_out_kernel=3,
               attention_type="default", resnet_time_scale_shift="default", resnet_out_scale_factor=1,
               time_embedding_type="positional", addition_embed_type_num_heads=64),
)
AUTOENCODER = Layout(
    Autoencoder, AutoencoderConfig, "diffusion_pytorch_model.safetensors", IMAGE_NAMES,
    sizes=dict(channels="block_out_channels", layers="layers_per_block", groups="norm_num_groups",
               latent_channels="latent_channels", image_channels="in_channels", scale="scaling_factor"),
    derive=lambda config: dict(
        out_channels=config.image_channels,
        down_block_types=["DownEncoderBlock2D"] * len(config.channels),
        up_block_types=["UpDecoderBlock2D"] * len(config.channels)),
    fixed=dict(_class_name="AutoencoderKL", act_fn="silu", mid_block_add_attention=True, use_quant_conv=True,
               use_post_quant_conv=True),
    absent=dict(scaling_factor=0.18215),
    ignored=("sample_size", "force_upcast"),
)
TEXT = Layout(
    TextTransformer, TextConfig, "model.safetensors", CLIP_NAMES,
    sizes=dict(vocab_size="vocab_size", dim="hidden_size", layers="num_hidden_layers",
               heads="num_attention_heads", mlp_dim="intermediate_size", length="max_position_embeddings"),
    derive=lambda config: dict(
        bos_token_id=config.end_id - 1, eos_token_id=config.end_id, pad_token_id=config.end_id),
    # Stable Diffusion's own file says 2, by mistake; the end token is the last of the vocabulary.
    recover=lambda found: dict(
        end_id=found["vocab_size"] - 1 if found["eos_token_id"] == 2 else found["eos_token_id"]),
    # dtype: of the opened model; without it transformers 5 takes the file's, and float16 does not run.
    fixed=dict(architectures=["CLIPTextModel"], model_type="clip_text_model", hidden_act="quick_gelu",
               layer_norm_eps=1e-5, dtype="float32"),
    absent=dict(eos_token_id=49407),
    ignored=("bos_token_id", "eos_token_id", "pad_token_id", "projection_dim", "initializer_factor",
             "initializer_range", "dtype", "torch_dtype", "transformers_version"),
    prefix="text_model.",
)
IMAGE = Layout(
    ImageTransformer, ImageConfig, "model.safetensors", CLIP_NAMES,
    sizes=dict(image_size="image_size", patch_size="patch_size", channels="num_channels", dim="hidden_size",
               layers="num_hidden_layers", heads="num_attention_heads", mlp_dim="intermediate_size"),
    fixed=dict(architectures=["CLIPVisionModel"], model_type="clip_vision_model", hidden_act="quick_gelu",
               layer_norm_eps=1e-5, dtype="float32"),
    absent=dict(num_channels=3),
    ignored=("projection_dim", "initializer_factor", "initializer_range", "dtype", "torch_dtype",
             "transformers_version"),
    prefix="vision_model.",
)

DIT = Layout(    # ours alone: the field's DiT is told classes, not texts
    DiT, DiTConfig, "diffusion_pytorch_model.safetensors", (), fixed=dict(_class_name="DiT", prediction_type="flow"),
    sizes=dict(channels="in_channels", patch_size="patch_size", dim="hidden_size", layers="num_layers",
               heads="num_attention_heads", context_dim="cross_attention_dim", sample_size="sample_size"))


def config_to_json(layout: Layout, config) -> dict:
    """Write our config as their config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in layout.sizes.items()}
    return json.loads(json.dumps(layout.fixed | sizes | layout.derive(config)))    # tuples become lists


def config_from_json(layout: Layout, found: dict, source: str | Path = "config.json"):
    """Read their config as ours; ValueError names every key whose value we do not implement."""
    found = layout.absent | found
    example = config_to_json(layout, layout.config())
    wrong = []
    for key in layout.sizes.values():
        value, like = found.get(key), example[key]
        if type(value) is not type(like):
            wrong.append(f"{key} = {json.dumps(value)}, expected a value like {json.dumps(like)}")
            found[key] = like    # so that the rest can be checked, too
    sizes = {ours: found[theirs] for ours, theirs in layout.sizes.items()}
    sizes = {ours: tuple(value) if isinstance(value, list) else value for ours, value in sizes.items()}
    try:
        config = layout.config(**sizes, **layout.recover(found))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    known = config_to_json(layout, config)    # what we would write must be what is there
    for key, value in found.items():
        harmless = value == known[key] if key in known else not value or key.startswith("_")
        if not harmless and key not in layout.ignored:    # of keys that we do not know, only "off" is harmless
            wrong.append(f"{key} = {json.dumps(value)}, where we implement only {json.dumps(known.get(key))}")
    refuse(source, wrong)
    return config


def load_module(layout: Layout, folder: str | Path, dtype: torch.dtype = torch.float32,
                device: str | torch.device = "cpu") -> nn.Module:
    """Open a folder, its weights as `dtype` on `device`, whatever they are in the file.

    Raises FileNotFoundError for what is not there; ValueError for a damaged file, a setting that we do not implement,
    and a tensor that is missing, has no place or has another shape, each by name.
    """
    config = config_from_json(layout, read_config(folder, layout), Path(folder) / "config.json")
    model = fill(lambda: layout.model(config), folder, layout, dtype, device)
    return model.to(memory_format=torch.channels_last)    # convolutions on a CPU are up to a quarter faster


load_unet = partial(load_module, UNET)                  # a UNet2DConditionModel folder
load_autoencoder = partial(load_module, AUTOENCODER)    # AutoencoderKL
load_text = partial(load_module, TEXT)                  # CLIPTextModel
load_image = partial(load_module, IMAGE)                # CLIPVisionModel
load_dit = partial(load_module, DIT)                    # ours


def read_config(folder: str | Path, layout: Layout) -> dict:
    """Read the config.json of a folder. Raises FileNotFoundError if there is no such folder or file."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}, expected one with config.json and {layout.file}")
    return read_json(Path(folder) / "config.json")


def fill(build: Callable[[], nn.Module], folder: str | Path, layout: Layout, dtype: torch.dtype = torch.float32,
         device: str | torch.device = "cpu") -> nn.Module:
    """Build a model and give it the weights in `folder`: every tensor, and no other."""
    file, model = weights_file(folder, layout.file), skeleton(build)
    shapes = {layout.ours(name): shape for name, shape in shapes_of(file).items() if layout.holds(name)}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    flat = {name for name in shapes.keys() & wanted.keys() if shapes[name] == (*wanted[name], 1, 1)}
    wrong = [f"{layout.theirs(n)} is missing" for n in wanted if n not in shapes]
    wrong += [f"{layout.theirs(n)} has no place in the model" for n in shapes if n not in wanted]
    wrong += [f"{layout.theirs(n)} has shape {shape}, expected {wanted[n]}"
              for n, shape in shapes.items() if n in wanted and n not in flat and shape != wanted[n]]
    refuse(file, wrong)
    tensors = {layout.ours(name): tensor for name, tensor in stream_tensors(file, dtype, device)
               if layout.holds(name)}
    tensors |= {name: tensors[name].flatten(1) for name in flat}    # an old 1 × 1 convolution, now linear
    model.load_state_dict(tensors, assign=True)
    return model


def save_module(module: UNet | DiT | Autoencoder | TextTransformer | ImageTransformer, folder: str | Path,
                dtype: torch.dtype | None = None) -> None:
    """Write a model's folder, weights as `dtype`. ValueError, and nothing written, for layers such as a LoRA's."""
    layout = next(layout for layout in (UNET, AUTOENCODER, TEXT, IMAGE, DIT) if isinstance(module, layout.model))
    plain = skeleton(lambda: layout.model(module.config)).state_dict()
    refuse("module", [f"{name} is not part of a plain {layout.model.__name__}; merge a LoRA first, see merge_lora"
                      for name in module.state_dict() if name not in plain][:1])
    save_folder(module, folder, layout, config_to_json(layout, module.config), dtype)


def save_folder(module: nn.Module, folder: str | Path, layout: Layout, config: dict, dtype) -> None:
    """Write config.json and the weights, under the names of `layout`."""
    tensors = {layout.theirs(name): tensor.to(dtype or tensor.dtype)
               for name, tensor in module.state_dict().items()}
    write_tensors(Path(folder) / layout.file, tensors)
    write_json(Path(folder) / "config.json", config)
