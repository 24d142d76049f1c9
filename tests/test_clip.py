"""CLIP against transformers: states, embeddings and logits, in both directions; and what is refused."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from reference import error, perturb
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel

from ldm_edu.blocks import Attention, QuickGELU
from ldm_edu.clip import CLIP, ImageConfig, TextConfig, TextTransformer
from ldm_edu.losses import contrastive_loss
from ldm_edu.recipes import train_clip as contrastive
from ldm_edu.recipes.clip_folder import load_clip, save_clip
from ldm_edu.recipes.train_clip import ClipLearner
from ldm_edu.studies.retrieval import pairs_of
from ldm_edu.weights import IMAGE, TEXT, load_module

TEXT_CONFIG = TextConfig(vocab_size=600, dim=48, layers=3, heads=4, mlp_dim=96, length=12, end_id=599)
IMAGE_CONFIG = ImageConfig(image_size=24, patch_size=6, dim=32, layers=2, heads=4, mlp_dim=64)
WIDTH, TOLERANCE = 40, 1e-5


@pytest.fixture(scope="module")
def theirs() -> CLIPModel:
    """A small CLIP of transformers' in which every parameter counts."""
    shared = dict(projection_dim=WIDTH)
    text = dict(vocab_size=600, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
                max_position_embeddings=12, bos_token_id=598, eos_token_id=599, pad_token_id=599)
    image = dict(image_size=24, patch_size=6, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 intermediate_size=64)
    return perturb(CLIPModel(CLIPConfig(text_config=text | shared, vision_config=image | shared, **shared)))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """Their CLIP as they save it."""
    folder = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs():
    """Ids whose texts end at different places, and pictures."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 598, (3, 12), generator=generator)
    for row, end in zip(ids, (3, 7, 11)):
        row[end:] = 599
    return ids, torch.rand(3, 3, 24, 24, generator=generator) * 2 - 1


def outputs(model: CLIP, ids, images):
    texts, pictures = model.embed_texts(ids), model.embed_images(images)
    return texts, pictures, model.logit_scale.exp() * pictures @ texts.T


@torch.no_grad()
def worst(model: CLIP, theirs: CLIPModel, inputs) -> float:
    """The largest error of embeddings and logits, relative to their root mean square."""
    expected = theirs(input_ids=inputs[0], pixel_values=inputs[1])
    expected = expected.text_embeds, expected.image_embeds, expected.logits_per_image
    return max(error(a, b) for a, b in zip(outputs(model, *inputs), expected, strict=True))


# --- Equal

def test_ours_opens_theirs_and_says_the_same(folder, theirs, inputs):
    model = load_clip(folder)
    assert model.text.config == TEXT_CONFIG and model.image.config == IMAGE_CONFIG
    assert worst(model, theirs, inputs) < TOLERANCE


def test_theirs_opens_ours_and_says_the_same(folder, inputs, tmp_path):
    model = load_clip(folder)
    save_clip(model, tmp_path)
    assert worst(model, CLIPModel.from_pretrained(tmp_path).eval(), inputs) < TOLERANCE


@pytest.mark.parametrize("old", [False, True], ids=["as saved now", "as saved by transformers 4"])
@pytest.mark.parametrize("kind", ["text", "image"])
def test_ours_opens_one_tower_alone(theirs, inputs, tmp_path, kind, old):
    """In both spellings of the keys: without and with the prefix text_model. or vision_model., and position_ids."""
    config, layout = {"text": (theirs.config.text_config, TEXT), "image": (theirs.config.vision_config, IMAGE)}[kind]
    tower = perturb({"text": CLIPTextModel, "image": CLIPVisionModel}[kind](config), seed=1)
    tower.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {layout.prefix + name.removeprefix(layout.prefix) if old else name.removeprefix(layout.prefix): tensor
               for name, tensor in load_file(file).items()}
    if old:
        tensors[layout.prefix + "embeddings.position_ids"] = torch.arange(12)[None]
    save_file(tensors, file)
    model = load_module(layout, tmp_path)
    with torch.no_grad():
        if kind == "text":
            found, output = model(inputs[0]), tower(inputs[0])
            assert error(model.pooled(found, inputs[0]), output.pooler_output) < TOLERANCE
            expected = output.last_hidden_state
        else:    # theirs norms the class token's state alone, for the pooled output; ours all of them
            found, output = model(inputs[1]), tower(inputs[1])
            assert error(found[:, 0], output.pooler_output) < TOLERANCE
            vision = getattr(tower, "vision_model", tower)
            expected = vision.post_layernorm(output.last_hidden_state)
    assert error(found, expected) < TOLERANCE


@pytest.mark.skipif(not contrastive.FOLDER.is_dir(), reason="the CLIP is not trained yet")
def test_theirs_opens_the_shipped_one():
    learner, model = ClipLearner.load(), CLIPModel.from_pretrained(contrastive.FOLDER).eval()
    images, captions = pairs_of("validation", 4)
    ids = contrastive.tokenize(learner.tokenizer, captions)
    assert worst(learner.clip, model, (ids, contrastive.to_float(images))) < TOLERANCE


# --- The comparison notices

def pools_the_last(self, states, ids):
    return states[:, -1]


MISTAKES = {
    "no causal mask": lambda model, patch: [setattr(m, "causal", False) for m in model.text.modules()
                                            if isinstance(m, Attention)],
    "a causal mask over patches": lambda model, patch: [setattr(m, "causal", True) for m in model.image.modules()
                                                        if isinstance(m, Attention)],
    "GELU for quick-GELU": lambda model, patch: patch.setattr(QuickGELU, "forward", lambda self, x: F.gelu(x)),
    "pooled at the last position": lambda model, patch: patch.setattr(TextTransformer, "pooled", pools_the_last),
    "pooled before the end": lambda model, patch: patch.setattr(
        TextTransformer, "pooled", lambda self, states, ids: states[
            torch.arange(len(ids)), (ids == self.config.end_id).int().argmax(1) - 1]),
    "no norm before the blocks": lambda model, patch: setattr(model.image, "pre_norm", nn.Identity()),
    "no norm after the blocks": lambda model, patch: setattr(model.image, "post_norm", nn.Identity()),
    "the mean of all patches": lambda model, patch: patch.setattr(CLIP, "embed_images", lambda self, x: F.normalize(
        self.visual_projection(self.image(x).mean(1)), dim=-1)),
    "vectors of any length": lambda model, patch: patch.setattr(F, "normalize", lambda x, dim: x),
    "positions off by one": lambda model, patch: setattr(model.image.position_embedding, "weight", nn.Parameter(
        model.image.position_embedding.weight.roll(1, 0))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_shows(folder, theirs, inputs, monkeypatch, mistake):
    model = load_clip(folder)
    expected = theirs(input_ids=inputs[0], pixel_values=inputs[1])
    expected = expected.text_embeds, expected.image_embeds, expected.logits_per_image
    MISTAKES[mistake](model, monkeypatch)
    with torch.no_grad():
        found = outputs(model, *inputs)
    assert max(error(a, b) for a, b in zip(found, expected)) > 10 * TOLERANCE


# --- The loss

def test_contrastive_loss_equals_transformers(theirs, inputs):
    expected = theirs(input_ids=inputs[0], pixel_values=inputs[1], return_loss=True)
    found = contrastive_loss(expected.image_embeds, expected.text_embeds, theirs.logit_scale)
    torch.testing.assert_close(found, expected.loss, rtol=1e-5, atol=1e-6)


def test_the_scale_stops_at_100():
    a, b = (F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(s)), dim=1) for s in (0, 1))
    limit = contrastive_loss(a, b, torch.tensor(100.0).log())
    torch.testing.assert_close(contrastive_loss(a, b, torch.tensor(9.0)), limit)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("visual_projection.weight"), "visual_projection.weight is missing"),
    (lambda t: t.pop("vision_model.pre_layrnorm.bias"), "vision_model.pre_layrnorm.bias is missing"),
    (lambda t: t.update({"text_model.last_norm.bias": t.pop("text_model.final_layer_norm.bias")}),
     "text_model.final_layer_norm.bias is missing; text_model.last_norm.bias has no place in the model"),
    (lambda t: t.update(bias=torch.ones(2)), "bias has no place in the model"),
    (lambda t: t.update(logit_scale=torch.ones(2)), r"logit_scale has shape \(2,\), expected \(\)"),
])
def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path, change, message):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


@pytest.mark.parametrize("change, message", [
    (lambda c: c.pop("vision_config"), "vision_config is missing"),
    (lambda c: c["text_config"].update(hidden_act="gelu"), 'hidden_act = "gelu", where we implement only "quick_gelu"'),
    (lambda c: c["vision_config"].update(patch_size=7), "image_size: got 24, expected a multiple of patch_size=7"),
])
def test_a_config_that_we_do_not_implement_is_refused(folder, tmp_path, change, message):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)
