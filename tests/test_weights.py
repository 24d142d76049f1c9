"""Models on disk: names and shapes of Stable Diffusion v1, round trips, and what is refused."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
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
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from ldm_edu.autoencoder import AutoencoderConfig
from ldm_edu.clip import TextConfig
from ldm_edu.support.files import read_tensors, write_tensors
from ldm_edu.support.skeleton import skeleton
from ldm_edu.unet import UNetConfig
from ldm_edu.weights import (
    AUTOENCODER,
    TEXT,
    UNET,
    config_from_json,
    config_to_json,
    load_autoencoder,
    load_text,
    load_unet,
    save_module,
)

LAYOUTS = {"unet": UNET, "autoencoder": AUTOENCODER, "text": TEXT}
LOAD = {"unet": load_unet, "autoencoder": load_autoencoder, "text": load_text}
REFERENCE = {"unet": reference_unet, "autoencoder": reference_autoencoder, "text": reference_text}
OPEN = {"unet": UNet2DConditionModel, "autoencoder": AutoencoderKL, "text": CLIPTextModel}
SMALL = {"unet": UNETS["sd"], "autoencoder": AUTOENCODERS["sd"], "text": TEXTS["sd"]}
KINDS = pytest.mark.parametrize("kind", LAYOUTS)


def run(kind: str, model) -> torch.Tensor:
    """One output of our model or theirs, for the same input."""
    theirs = not isinstance(model, LAYOUTS[kind].model)
    torch.manual_seed(0)
    if kind == "unet":
        output = model(torch.randn(1, 4, 8, 8), torch.tensor([37]), torch.randn(1, 5, 48))
        return output.sample if theirs else output
    if kind == "autoencoder":
        output = model.decode(torch.randn(1, 4, 4, 4))
        return output.sample if theirs else output
    output = model(torch.randint(0, 600, (1, 9)))
    return output.last_hidden_state if theirs else output


def shapes(state: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def old_autoencoder(state: dict) -> dict:
    """As diffusers wrote it before 0.18, some of it as 1 × 1 convolutions."""
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in state.items():
        for new, former in spelling.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(new, former)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        old[name] = tensor
    return old


def old_text(state: dict) -> dict:
    """As transformers 4 wrote it: a prefix, and the positions as a buffer."""
    old = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    return old | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


# ---- Names ----

@pytest.mark.parametrize("kind, config, count", [
    ("unet", UNetConfig(), 686), ("autoencoder", AutoencoderConfig(), 248), ("text", TextConfig(), 196)])
def test_all_names_and_shapes_of_stable_diffusion_v1(kind, config, count):
    with torch.device("meta"):
        mine, theirs = LAYOUTS[kind].model(config).state_dict(), REFERENCE[kind](config).state_dict()
    layout = LAYOUTS[kind]
    prefix = layout.prefix    # which transformers 5 leaves out
    expected = {prefix + name.removeprefix(prefix): shape for name, shape in shapes(theirs).items()}
    assert len(mine) == count
    assert {layout.theirs(name): shape for name, shape in shapes(mine).items()} == expected
    assert {layout.ours(name) for name in theirs} == set(mine)
    assert {layout.ours(layout.theirs(name)) for name in mine} == set(mine)


def test_old_spellings_of_stable_diffusion_v1():
    with torch.device("meta"):
        state = reference_autoencoder(AutoencoderConfig()).state_dict()
        old = old_autoencoder(state)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old and len(old) == 248
    assert [AUTOENCODER.ours(name) for name in old] == [AUTOENCODER.ours(name) for name in state]


@pytest.mark.parametrize("kind, mine, theirs", [
    ("unet", "time_mlp.2.bias", "time_embedding.linear_2.bias"),
    ("unet", "down_blocks.1.attentions.0.block.cross_attn.to_out.weight",
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0.weight"),
    ("unet", "mid_block.attention.block.ff.out.bias",
     "mid_block.attentions.0.transformer_blocks.0.ff.net.2.bias"),
    ("unet", "up_blocks.2.upsample.conv.weight", "up_blocks.2.upsamplers.0.conv.weight"),
    ("autoencoder", "encoder.down_blocks.0.downsample.conv.bias",
     "encoder.down_blocks.0.downsamplers.0.conv.bias"),
    ("autoencoder", "decoder.mid_block.attention.group_norm.weight",
     "decoder.mid_block.attentions.0.group_norm.weight"),
    ("text", "blocks.7.attn.to_out.weight", "text_model.encoder.layers.7.self_attn.out_proj.weight"),
    ("text", "final_norm.bias", "text_model.final_layer_norm.bias"),
])
def test_names_by_hand(kind, mine, theirs):
    assert LAYOUTS[kind].theirs(mine) == theirs
    assert LAYOUTS[kind].ours(theirs) == mine


# ---- Round trips ----

@pytest.fixture(scope="module", params=LAYOUTS)
def saved(request, tmp_path_factory):
    """(kind, reference, its folder, our model with its weights)."""
    kind = request.param
    reference = perturb(REFERENCE[kind](SMALL[kind]))
    folder = tmp_path_factory.mktemp(kind)
    reference.save_pretrained(folder)
    return kind, reference, folder, ours(reference, SMALL[kind])


def test_they_save_we_load(saved):
    kind, reference, folder, model = saved
    loaded = LOAD[kind](folder)
    assert loaded.config == SMALL[kind]
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert error(run(kind, loaded), run(kind, model)) < 5e-5    # it is laid out in another way in memory
    assert error(run(kind, loaded), run(kind, reference)) < 5e-5


def test_we_save_they_load(saved, tmp_path):
    kind, reference, _, model = saved
    save_module(model, tmp_path)
    loaded, info = OPEN[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(loaded.state_dict(), reference.state_dict(), rtol=0, atol=0)
    theirs = json.loads((saved[2] / "config.json").read_text())
    mine = loaded.config.to_dict() if kind == "text" else dict(loaded.config)
    for key in theirs.keys() - {"_diffusers_version", "transformers_version", "torch_dtype"}:
        value = list(mine[key]) if isinstance(mine[key], tuple) else mine[key]
        assert value == theirs[key], key
    assert error(run(kind, loaded.eval()), run(kind, reference)) < 5e-5


def test_half_precision_on_disk_is_float32_in_memory(saved, tmp_path):
    kind, _, _, model = saved
    save_module(model, tmp_path, dtype=torch.float16)
    assert {t.dtype for t in read_tensors(tmp_path / LAYOUTS[kind].file).values()} == {torch.float16}
    expected = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    torch.testing.assert_close(LOAD[kind](tmp_path).state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind, age", [("autoencoder", old_autoencoder), ("text", old_text)])
def test_old_files_load(kind, age, tmp_path):
    reference = perturb(REFERENCE[kind](SMALL[kind]))
    reference.save_pretrained(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in age(reference.state_dict()).items()},
              tmp_path / LAYOUTS[kind].file)
    expected = ours(reference, SMALL[kind]).state_dict()
    torch.testing.assert_close(LOAD[kind](tmp_path).state_dict(), expected, rtol=0, atol=0)


# ---- Configs ----

# The settings in Stable Diffusion v1.5's own files.
V1_5 = {
    "unet": dict(
        _class_name="UNet2DConditionModel", _diffusers_version="0.6.0", act_fn="silu", attention_head_dim=8,
        block_out_channels=[320, 640, 1280, 1280], center_input_sample=False, cross_attention_dim=768,
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], downsample_padding=1,
        flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1,
        norm_eps=1e-05, norm_num_groups=32, out_channels=4, sample_size=64,
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3),
    "autoencoder": dict(
        _class_name="AutoencoderKL", _diffusers_version="0.6.0", act_fn="silu",
        block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3,
        latent_channels=4, layers_per_block=2, norm_num_groups=32, out_channels=3, sample_size=512,
        up_block_types=["UpDecoderBlock2D"] * 4),
    "text": dict(
        _name_or_path="openai/clip-vit-large-patch14", architectures=["CLIPTextModel"], attention_dropout=0.0,
        bos_token_id=0, dropout=0.0, eos_token_id=2, hidden_act="quick_gelu", hidden_size=768,
        initializer_factor=1.0, initializer_range=0.02, intermediate_size=3072, layer_norm_eps=1e-05,
        max_position_embeddings=77, model_type="clip_text_model", num_attention_heads=12,
        num_hidden_layers=12, pad_token_id=1, projection_dim=768, torch_dtype="float32",
        transformers_version="4.22.0.dev0", vocab_size=49408),
}


@KINDS
def test_stable_diffusion_v1_5_is_the_default_config(kind):
    assert config_from_json(LAYOUTS[kind], V1_5[kind]) == LAYOUTS[kind].config()


@KINDS
def test_config_round_trip(kind):
    assert config_from_json(LAYOUTS[kind], config_to_json(LAYOUTS[kind], SMALL[kind])) == SMALL[kind]


@pytest.mark.parametrize("kind, changes", [
    # Stable Diffusion 2
    ("unet", dict(attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, cross_attention_dim=1024)),
    # Stable Diffusion XL
    ("unet", dict(attention_head_dim=[5, 10, 20], use_linear_projection=True, addition_embed_type="text_time",
                  transformer_layers_per_block=[1, 2, 10], projection_class_embeddings_input_dim=2816)),
    ("unet", dict(class_embed_type="timestep")),
    ("unet", dict(only_cross_attention=True)),
    ("unet", dict(dual_cross_attention=True)),
    ("unet", dict(resnet_time_scale_shift="scale_shift")),
    ("unet", dict(flip_sin_to_cos=False)),
    ("unet", dict(norm_eps=1e-6)),
    ("unet", dict(time_cond_proj_dim=256)),
    ("unet", dict(down_block_types=["AttnDownBlock2D"] * 3 + ["DownBlock2D"])),
    ("unet", dict(_class_name="ControlNetModel")),
    ("unet", dict(a_key_of_the_future="on")),
    ("unet", dict(sample_size=None)),
    ("autoencoder", dict(mid_block_add_attention=False)),
    ("autoencoder", dict(use_quant_conv=False, latents_mean=[0.1], shift_factor=0.1)),
    ("autoencoder", dict(down_block_types=["AttnDownEncoderBlock2D"] * 4)),
    ("text", dict(hidden_act="gelu")),
    ("text", dict(architectures=["CLIPTextModelWithProjection"])),
    ("text", dict(model_type="clip")),
    ("text", dict(layer_norm_eps=1e-6)),
])
def test_a_config_that_we_do_not_implement_is_refused_by_name(kind, changes):
    with pytest.raises(ValueError) as refusal:
        config_from_json(LAYOUTS[kind], V1_5[kind] | changes, "some/config.json")
    message = str(refusal.value)
    assert message.startswith("some/config.json: ")
    for key, value in changes.items():
        if key != "cross_attention_dim":    # any width will do
            assert f"{key} = {json.dumps(value)}" in message
    assert message.count(" = ") == len(changes.keys() - {"cross_attention_dim"})


# ---- Damage ----

@pytest.fixture
def folder(tmp_path):
    """A text transformer on disk, to damage."""
    save_module(TEXT.model(TEXTS["sd"]), tmp_path)
    return tmp_path


def change(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_folder_and_files(folder):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere, expected one with config.json"):
        load_text(folder / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_text(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_text(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_tensors(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"):
        load_text(folder)


def test_truncated_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_text(folder)


def test_missing_extra_and_misshapen_tensors_are_all_named(folder):
    def edit(tensors):
        del tensors["text_model.final_layer_norm.bias"]
        tensors["text_projection.weight"] = torch.zeros(2, 2)
        tensors["text_model.encoder.layers.0.mlp.fc1.bias"] = torch.zeros(7)

    change(folder, edit)
    with pytest.raises(ValueError) as refusal:
        load_text(folder)
    for part in ("model.safetensors: ", "text_model.final_layer_norm.bias is missing",
                 "text_projection.weight has no place in the model",
                 "text_model.encoder.layers.0.mlp.fc1.bias has shape (7,), expected (192,)"):
        assert part in str(refusal.value)


def test_many_wrong_tensors_are_counted(folder):
    change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.0." in name])
    with pytest.raises(ValueError, match="is missing; and 8 more$"):
        load_text(folder)


def test_an_interrupted_write_leaves_the_last_good_file(folder, monkeypatch):
    path = folder / "model.safetensors"
    before = path.read_bytes()

    def killed(tensors, part, metadata):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm_edu.support.files.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_module(TEXT.model(TEXTS["sd"]), folder)
    assert path.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_tensors_round_trip_and_others_may_read_them(tmp_path):
    tensors = {"step": torch.tensor(7), "a.b": torch.randn(3, 4).t(), "half": torch.randn(2).bfloat16()}
    write_tensors(tmp_path / "new" / "folder" / "x.safetensors", tensors)
    torch.testing.assert_close(read_tensors(tmp_path / "new/folder/x.safetensors"), tensors, rtol=0, atol=0)
    assert (tmp_path / "new/folder/x.safetensors").stat().st_mode & stat.S_IROTH


def test_nothing_is_drawn_for_weights_that_are_read():
    """In a fresh process: on the meta device a draw imports torch._dynamo, which takes seconds."""
    code = ("import sys, torch; from ldm_edu import DATA; from ldm_edu.pipeline import LatentDiffusion\n"
            "state = torch.get_rng_state(); slow = {'transformers', 'matplotlib', 'torchvision', 'huggingface_hub'}\n"
            "print(*sorted(slow & sys.modules.keys()))\n"
            "LatentDiffusion.from_pretrained(DATA / 'tiny-worlds').text_to_image('a red boat', steps=1)\n"
            "print(torch.equal(state, torch.get_rng_state()), 'torch._dynamo' in sys.modules)")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["", "True False"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_skeleton_has_the_shapes_of_the_model_and_a_model_built_after_it_is_drawn(kind):
    build = partial(LAYOUTS[kind].model, SMALL[kind])
    empty, model = skeleton(build), build()
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert shapes(empty.state_dict()) == shapes(model.state_dict())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    assert max(tensor.std() for tensor in model.state_dict().values() if tensor.ndim > 1) > 0
