"""LoRA: by formula, on disk in the names of diffusers and kohya, learned, merged, removed, refused."""
import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from reference import PROMPTS, error, latents, pair
from torch import Tensor, nn

from ldm_edu.blocks import Attention
from ldm_edu.lora import LoRA, add_lora, load_lora, merge_lora, remove_lora, save_lora
from ldm_edu.losses import loss_weights, noise_loss
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.support.files import read_tensors, write_tensors
from ldm_edu.training import TrainConfig, train


@pytest.fixture
def ldm() -> LatentDiffusion:
    return copy.deepcopy(pair("tiny")[1])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given_lora(ldm: LatentDiffusion, rank: int = 3, text: bool = True) -> LatentDiffusion:
    """With random LoRAs on the U-Net and the text transformer."""
    torch.manual_seed(0)
    for module in (ldm.unet, ldm.text.transformer)[:1 + text]:
        add_lora(module, rank, alpha=2 * rank)
        for name, value in module.named_parameters():
            if name.endswith(".B"):
                nn.init.normal_(value, std=0.05)
    return ldm


def drawn(ldm: LatentDiffusion) -> Tensor:
    return latents(ldm, PROMPTS, steps=2, seed=1)


# ---- The formula ----

def test_by_hand():
    """A 1 x 2, B 3 x 1, alpha 5, rank 1: W + 5 B A."""
    layer = nn.Linear(2, 3, bias=False)
    nn.init.ones_(layer.weight)
    lora = LoRA(layer, rank=1, alpha=5)
    lora.A.data, lora.B.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    assert lora(torch.eye(2)).T.tolist() == [[6, 11], [1, 1], [-4, -9]]
    assert merge_lora(nn.Sequential(lora))[0].weight.tolist() == [[6, 11], [1, 1], [-4, -9]]
    assert LoRA(layer, rank=2).scale == 1 and LoRA(layer, rank=4, alpha=2).scale == 0.5


def test_a_convolution_1_x_1_is_a_linear_layer_at_every_pixel():
    conv, x = nn.Conv2d(6, 4, 1), draw(2, 6, 5, 3)
    lora = LoRA(LoRA(conv, rank=2, alpha=3), rank=1)    # two, one on the other
    for each in (lora, lora.layer):
        nn.init.normal_(each.B)
    expected = conv(x) + torch.einsum("or,ri,bihw->bohw", lora.B, lora.A, x) + 1.5 * torch.einsum(
        "or,ri,bihw->bohw", lora.layer.B, lora.layer.A, x)
    torch.testing.assert_close(lora(x), expected)
    torch.testing.assert_close(merge_lora(nn.Sequential(lora))(x), expected)


def test_a_layer_with_a_lora_is_the_sum_of_two_paths():
    attention, x = Attention(12, heads=3, context_dim=8), draw(2, 5, 12)
    before = attention.to_q(x)
    add_lora(attention, rank=4, alpha=6)
    lora = attention.to_q
    torch.testing.assert_close(lora(x), before)    # B is zero
    nn.init.normal_(lora.B)
    torch.testing.assert_close(lora(x), before + 6 / 4 * (x @ lora.A.T) @ lora.B.T)
    merged = merge_lora(copy.deepcopy(attention))
    torch.testing.assert_close(merged.to_q(x), lora(x))
    assert set(merged.state_dict()) == set(Attention(12, heads=3, context_dim=8).state_dict())
    torch.testing.assert_close(remove_lora(attention).to_q(x), before, rtol=0, atol=0)


def test_only_the_lora_learns_and_it_is_small(ldm):
    trained = add_lora(ldm.unet, rank=2)
    attentions = [module for module in ldm.unet.modules() if isinstance(module, Attention)]
    assert len(trained) == 2 * 4 * len(attentions)
    assert sum(p.numel() for p in trained) < 0.02 * sum(p.numel() for p in ldm.unet.parameters())
    ldm.unet(draw(1, 4, 8, 8), 5, draw(1, 32, 128)).square().mean().backward()
    assert {name.rsplit(".", 1)[-1] for name, p in ldm.unet.named_parameters() if p.grad is not None} == {"A", "B"}


# ---- On disk ----

def test_a_file_brings_back_the_same_pictures(ldm, tmp_path):
    plain, changed = drawn(ldm), drawn(given_lora(ldm))
    assert error(changed, plain) > 0.05
    save_lora(ldm, tmp_path / "lora.safetensors")
    fresh = copy.deepcopy(pair("tiny")[1])
    load_lora(fresh, tmp_path / "lora.safetensors")
    assert error(drawn(fresh), changed) < 1e-4
    load_lora(fresh, tmp_path / "lora.safetensors", scale=-1)    # on top: which takes it back
    assert error(drawn(fresh), plain) < 1e-4
    for module in (fresh.unet, fresh.text.transformer):
        remove_lora(module)
    assert torch.equal(drawn(fresh), plain)


def test_a_model_with_a_lora_is_not_saved_before_it_is_merged(ldm, tmp_path):
    with pytest.raises(ValueError, match=r"to_q.A is not part of a plain UNet; merge a LoRA first, see merge_lora"):
        given_lora(ldm).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_merged_model_is_saved_as_any_other(ldm, tmp_path):
    changed = drawn(given_lora(ldm))
    for module in (ldm.unet, ldm.text.transformer):
        merge_lora(module)
    ldm.save_pretrained(tmp_path, dtype=torch.float32)
    assert error(drawn(LatentDiffusion.from_pretrained(tmp_path)), changed) < 1e-4


def kohya(tensors: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A file of ours in the spelling of kohya's scripts, with B divided by what alpha will multiply it with."""
    found = {}
    for name, tensor in tensors.items():
        key = name.replace("text_encoder.", "te.").replace(".lora_A.weight", "").replace(".lora_B.weight", "")
        key = "lora_" + key.replace(".", "_")
        rank = tensor.shape[0 if "lora_A" in name else 1]
        found[f"{key}.lora_down.weight" if "lora_A" in name else f"{key}.lora_up.weight"] = (
            tensor if "lora_A" in name else tensor * rank / alpha)
        found[f"{key}.alpha"] = torch.tensor(alpha)
    return found


def test_kohya_s_spelling(ldm, tmp_path):
    changed = drawn(given_lora(ldm))
    save_lora(ldm, tmp_path / "ours.safetensors")
    write_tensors(tmp_path / "kohya.safetensors", kohya(read_tensors(tmp_path / "ours.safetensors"), alpha=1.5))
    fresh = copy.deepcopy(pair("tiny")[1])
    load_lora(fresh, tmp_path / "kohya.safetensors")
    assert error(drawn(fresh), changed) < 1e-4


def test_diffusers_reads_kohya_s_spelling_as_we_do(ldm, tmp_path):
    """Its converter, which is a function of names, gives names of which each leads us to the layer that ours led to."""
    save_lora(given_lora(ldm), tmp_path / "ours.safetensors")
    ours = read_tensors(tmp_path / "ours.safetensors")
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(kohya(ours, alpha=3.0))
    assert len(theirs) == len(ours)
    write_tensors(tmp_path / "theirs.safetensors", theirs)
    first, second = copy.deepcopy(ldm), copy.deepcopy(pair("tiny")[1])
    load_lora(second, tmp_path / "theirs.safetensors")
    assert error(drawn(second), drawn(first)) < 1e-4


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_older_diffusers_spelling(ldm, tmp_path, prefix):
    """Of save_lora_weights, and of save_attn_procs, which leaves out the U-Net's name."""
    save_lora(given_lora(ldm, text=False), tmp_path / "ours.safetensors")
    old = {}
    for name, tensor in read_tensors(tmp_path / "ours.safetensors").items():
        key, projection = name.replace(".to_out.0.", ".to_out.").split(".lora_")[0].rsplit(".", 1)
        key = prefix + key.removeprefix("unet.")
        old[f"{key}.processor.{projection}_lora.{'down' if 'lora_A' in name else 'up'}.weight"] = tensor
    write_tensors(tmp_path / "old.safetensors", old)
    fresh = copy.deepcopy(pair("tiny")[1])
    load_lora(fresh, tmp_path / "old.safetensors")
    assert error(drawn(fresh), drawn(ldm)) < 1e-4


def test_diffusers_opens_our_file_and_draws_the_same(ldm, tmp_path):
    pytest.importorskip("peft", reason="diffusers reads a LoRA only where peft is installed")
    pipe, mine = pair("tiny")
    save_lora(given_lora(ldm), tmp_path / "lora.safetensors")
    mine.save_pretrained(tmp_path / "model", dtype=torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    found = pipe(PROMPTS, num_inference_steps=2, guidance_scale=4.0, output_type="latent",
                 generator=torch.Generator().manual_seed(1)).images
    assert error(drawn(ldm), found) < 2e-4


def peft_lora(tmp_path, **settings):
    """(folder, what diffusers draws, its pipeline): a LoRA by PEFT on U-Net and text encoder, saved by diffusers."""
    peft = pytest.importorskip("peft", reason="diffusers reads and writes a LoRA only where peft is installed")
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "model", dtype=torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    parts = {"unet": (pipe.unet, ["to_q", "to_v", "to_out.0"]),
             "text_encoder": (pipe.text_encoder, ["q_proj", "v_proj"])}
    torch.manual_seed(0)
    for module, targets in parts.values():
        config = peft.LoraConfig(target_modules=targets, **settings)
        peft.inject_adapter_in_model(config, module, "default")
        module.peft_config = {"default": config}
        for name, value in module.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value, std=0.05)
    layers = {f"{part}_lora_layers": peft.get_peft_model_state_dict(module) for part, (module, _) in parts.items()}
    header = {f"{part}_lora_adapter_metadata": module.peft_config["default"].to_dict()
              for part, (module, _) in parts.items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", **layers, **header)
    drawn = pipe(PROMPTS, num_inference_steps=2, guidance_scale=4.0, output_type="latent",
                 generator=torch.Generator().manual_seed(1)).images
    return tmp_path / "lora", drawn, pipe


@pytest.mark.parametrize("settings", [
    dict(r=4, lora_alpha=16), dict(r=4, lora_alpha=16, use_rslora=True),
    dict(r=4, lora_alpha=8, alpha_pattern={"to_q": 24, "mid_block.*to_v": 2}, rank_pattern={"to_v": 2})],
    ids=["alpha", "root", "patterns"])
def test_alpha_in_the_header_is_followed_as_diffusers_does(ldm, tmp_path, settings):
    folder, expected, _ = peft_lora(tmp_path, **settings)
    load_lora(ldm, folder)    # a folder, as diffusers saves one
    assert error(drawn(ldm), expected) < 2e-4
    remove_lora(ldm.unet), remove_lora(ldm.text.transformer)
    (folder / "pytorch_lora_weights.safetensors").rename(tmp_path / "with.safetensors")
    write_tensors(tmp_path / "without.safetensors", read_tensors(tmp_path / "with.safetensors"))    # scale 1
    load_lora(ldm, tmp_path / "without.safetensors")
    assert error(drawn(ldm), expected) > 0.02


def test_an_adapter_of_the_u_net_alone_has_no_prefix(ldm, tmp_path):
    _, _, pipe = peft_lora(tmp_path, r=4, lora_alpha=16)
    for name, value in pipe.text_encoder.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(value)
    pipe.unet.save_lora_adapter(tmp_path / "unet", adapter_name="default")
    load_lora(ldm, tmp_path / "unet")
    expected = pipe(PROMPTS, num_inference_steps=2, guidance_scale=4.0, output_type="latent",
                    generator=torch.Generator().manual_seed(1)).images
    assert error(drawn(ldm), expected) < 2e-4


def test_the_text_encoder_s_names_may_lack_a_part(ldm, tmp_path):
    """As transformers 5 names them."""
    changed = drawn(given_lora(ldm))
    save_lora(ldm, tmp_path / "ours.safetensors")
    tensors = read_tensors(tmp_path / "ours.safetensors")
    assert any("text_model." in name for name in tensors)
    write_tensors(tmp_path / "new.safetensors", {n.replace("text_model.", ""): v for n, v in tensors.items()})
    fresh = copy.deepcopy(pair("tiny")[1])
    load_lora(fresh, tmp_path / "new.safetensors")
    assert error(drawn(fresh), changed) < 1e-4


def test_a_pickle_and_a_folder_without_a_lora_are_named(ldm, tmp_path):
    torch.save({}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(ValueError, match="pytorch_lora_weights.bin is a pickle, which can run any code"):
        load_lora(ldm, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_lora_weights.safetensors"):
        load_lora(ldm, tmp_path)


# ---- Learned ----

def test_it_learns_a_picture_and_nothing_else_changes(ldm):
    """Four pictures of one kind: the loss on them falls, and with the LoRA off the model is what it was."""
    plain, weights, weight = drawn(ldm), copy.deepcopy(ldm.unet.state_dict()), loss_weights(ldm.schedule)
    with torch.no_grad():
        z = ldm.autoencoder.to_latent(draw(1, 3, 64, 64).clamp(-1, 1)).expand(4, -1, -1, -1)
        context = ldm.text([PROMPTS[0]] * 4)
    add_lora(ldm.unet, 4)

    def loss_fn(unet, generator):
        return {"loss": noise_loss(unet, z, context, ldm.schedule, weight, generator)}

    losses = [progress.losses["loss"] for progress in train(ldm.unet, loss_fn, TrainConfig(16, lr=4e-3, warmup=1))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert error(drawn(ldm), plain) > 0.01
    remove_lora(ldm.unet)
    assert torch.equal(drawn(ldm), plain)
    assert all(torch.equal(value, weights[name]) for name, value in ldm.unet.state_dict().items())


# ---- Refused ----

@pytest.mark.parametrize("rank", [0, -1, 1.5])
def test_bad_ranks_are_named(rank):
    with pytest.raises(ValueError, match=f"rank: got {rank}, expected an integer from 1 to 4096"):
        add_lora(Attention(8, 2), rank)


def test_a_module_without_attention_and_a_model_without_lora_are_named(ldm, tmp_path):
    with pytest.raises(ValueError, match="module: got a Linear without an Attention"):
        add_lora(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="without a LoRA"):
        save_lora(ldm, tmp_path / "x.safetensors")


@pytest.mark.parametrize("change, message", [
    (lambda t: {"unet.nowhere.to_q.lora_A.weight": draw(2, 8)}, "unet.nowhere.to_q.lora_A.weight has no place in"),
    (lambda t: {"lora_unet_nowhere.lora_up.weight": draw(2, 8)}, "lora_unet_nowhere.lora_up.weight has no place"),
    (lambda t: {"something": draw(2)}, "something has no place"),
    (lambda t: dict(list(t.items())[:1]), "has only A of A and B"),
    (lambda t: {name: value[:, :5] for name, value in t.items()}, r"expected a product"),
    (lambda t: {}, "holds no LoRA"),
], ids=["layer", "kohya", "name", "half", "shape", "empty"])
def test_bad_files_are_named_and_change_nothing(ldm, tmp_path, change, message):
    plain = drawn(ldm)
    save_lora(given_lora(copy.deepcopy(ldm)), tmp_path / "good.safetensors")
    write_tensors(tmp_path / "bad.safetensors", change(read_tensors(tmp_path / "good.safetensors")))
    with pytest.raises(ValueError, match=f"bad.safetensors: .*{message}"):
        load_lora(ldm, tmp_path / "bad.safetensors")
    assert torch.equal(drawn(ldm), plain)
    with pytest.raises(FileNotFoundError):
        load_lora(ldm, tmp_path / "nowhere.safetensors")
