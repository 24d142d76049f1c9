"""The doors of the package: every wrong input that a user can give gets one sentence, before any work is done.

The table is the list of the lesson's doors. Folders and files have their own: test_weights, test_pipeline ("On disk"),
test_lora, support/test_pictures, tiny_worlds/test_tiny_worlds, and the commands in the tests of their rooms.
"""
from types import SimpleNamespace

import pytest
import torch
from reference import pair

from ldm_edu import clip, unet
from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig
from ldm_edu.blocks import Attention
from ldm_edu.clip import ImageConfig, ImageTransformer, TextConfig
from ldm_edu.conditioning import MapEncoder
from ldm_edu.lora import add_lora
from ldm_edu.perceptual import LPIPS
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import ddim
from ldm_edu.schedule import Schedule, linear_schedule, scaled_linear_schedule, timesteps
from ldm_edu.tokenizer import build_tokenizer
from ldm_edu.training import TrainConfig
from ldm_edu.unet import UNetConfig

IMAGE = torch.zeros(1, 3, 64, 64)
TWO = torch.zeros(2, 3, 64, 64)
MASK = torch.ones(1, 1, 64, 64)
X = torch.zeros(2)
SMALL = AutoencoderConfig(channels=(8, 16), layers=1, groups=4)


@pytest.fixture
def ldm(monkeypatch) -> LatentDiffusion:
    """A small model whose U-Net cannot be called, and which was trained on semantic maps of 13 classes as well."""
    mine = pair("tiny")[1]
    encoder = MapEncoder(ImageTransformer(ImageConfig(64, 8, 13, dim=128, layers=1, heads=4, mlp_dim=64)))
    return LatentDiffusion(SimpleNamespace(config=mine.unet.config), mine.autoencoder, mine.text, mine.schedule,
                           map_encoder=encoder)


REQUESTS = [    # method, what is wrong, the sentence
    ("text_to_image", dict(prompt=""), "prompt: got '', expected words: the empty prompt is the unconditional one"),
    ("text_to_image", dict(prompt=["a house", " "]), "prompt: got ['a house', ' '], expected words"),
    ("text_to_image", dict(prompt=[]), "prompt: got [], expected a string or a list of strings"),
    ("text_to_image", dict(prompt=7), "prompt: got 7, expected a string or a list of strings"),
    ("text_to_image", dict(prompt="a " * 31), "expected at most 32, start and end included; 'a' would be cut off"),
    ("text_to_image", dict(negative_prompt=["a", "the"]), "negative_prompt: got 2, expected 1 or as many"),
    ("text_to_image", dict(negative_prompt=None), "negative_prompt: got None, expected a string or a list of strings"),
    ("text_to_image", dict(steps=0), "steps: got 0, expected an integer from 1 to 1000"),
    ("text_to_image", dict(steps=1001), "steps: got 1001, expected an integer from 1 to 1000"),
    ("text_to_image", dict(steps=2.5), "steps: got 2.5, expected an integer from 1 to 1000"),
    ("text_to_image", dict(steps=1000, sampler="dpm_solver"), "steps: got 1000, expected an integer from 1 to 999"),
    ("text_to_image", dict(guidance_scale=float("nan")), "guidance_scale: got nan, expected a finite number"),
    ("text_to_image", dict(guidance_scale=float("inf")), "guidance_scale: got inf, expected a finite number"),
    ("text_to_image", dict(guidance_scale="4"), "guidance_scale: got '4', expected a finite number"),
    ("text_to_image", dict(seed=1.5), "seed: got 1.5, expected an integer from 0 to 2^63 - 1"),
    ("text_to_image", dict(seed=-1), "seed: got -1, expected an integer from 0 to 2^63 - 1"),
    ("text_to_image", dict(size=60), "size: got 60, expected a side or (height, width) in pixels, multiples of 8"),
    ("text_to_image", dict(size=(64, 65)), "size: got (64, 65), expected a side or (height, width)"),
    ("text_to_image", dict(size=(64, 64, 3)), "size: got (64, 64, 3), expected a side"),
    ("text_to_image", dict(size=0), "size: got 0, expected a side"),
    ("text_to_image", dict(size=64.0), "size: got 64.0, expected a side"),
    ("text_to_image", dict(sampler="eular"), "sampler: got 'eular', expected one of ddpm, ddim, euler, dpm_solver"),
    ("denoise", dict(seed=-1), "seed: got -1, expected an integer"),
    ("denoise", dict(image=IMAGE), "condition: got prompt and image, expected one of prompt, semantic_map"),
    ("denoise", dict(prompt=None), "condition: got none, expected one of prompt, semantic_map"),
    ("context", dict(prompt=7), "prompt: got 7, expected a string or a list of strings"),
    ("variations", dict(image=IMAGE), "condition: got image, expected one of prompt, semantic_map"),
    ("map_to_image", dict(semantic_map=[[1]]), "semantic_map: got list, expected a tensor of integers (batch, 64, 64)"),
    ("map_to_image", dict(semantic_map=torch.zeros(64, 64).long()), "semantic_map: got (64, 64), expected a tensor"),
    ("map_to_image", dict(semantic_map=torch.zeros(1, 32, 64).long()), "semantic_map: got (1, 32, 64), expected"),
    ("map_to_image", dict(semantic_map=torch.zeros(1, 64, 64)), "semantic_map: got torch.float32 from 0.0 to 0.0, "
                                                                "expected integers from 0 to 12"),
    ("map_to_image", dict(semantic_map=torch.full((1, 64, 64), 13)), "from 13 to 13, expected integers from 0 to 12"),
    ("image_to_image", dict(prompt=""), "prompt: got '', expected words"),
    ("image_to_image", dict(strength=-0.1), "strength: got -0.1, expected a number from 0 (a copy) to 1"),
    ("image_to_image", dict(strength=1.1), "strength: got 1.1, expected a number from 0"),
    ("image_to_image", dict(strength=float("nan")), "strength: got nan, expected a number from 0"),
    ("image_to_image", dict(strength="half"), "strength: got 'half', expected a number from 0"),
    ("image_to_image", dict(sampler="eular"), "sampler: got 'eular', expected one of"),
    ("image_to_image", dict(steps=0), "steps: got 0, expected an integer"),
    ("image_to_image", dict(image=TWO), "image: got 2 pictures, expected 1 or one a prompt, 1"),
    ("image_to_image", dict(image=IMAGE[..., :60]), "image: got 64 x 60 pixels, expected multiples of 8"),
    ("image_to_image", dict(image=255 + IMAGE), "image: got values from 255 to 255, expected [-1, 1]"),
    ("inpaint", dict(mask=0 * MASK), "mask: got only 0"),
    ("inpaint", dict(mask=MASK[..., :32]), "mask: got 64 x 32 pixels, expected the image's 64 x 64"),
    ("inpaint", dict(mask=torch.ones(3, 64, 64)), "mask: got 3 masks, expected 1 or one a prompt, 1"),
    ("inpaint", dict(rounds=0), "rounds: got 0, expected a positive integer"),
    ("inpaint", dict(rounds=1.5), "rounds: got 1.5, expected a positive integer"),
]
GIVEN = {"text_to_image": dict(prompt="a house"), "denoise": dict(prompt="a house"), "context": {}, "variations": {},
         "map_to_image": {}, "image_to_image": dict(prompt="a house", image=IMAGE),
         "inpaint": dict(prompt="a house", image=IMAGE, mask=MASK)}


@pytest.mark.parametrize("method, wrong, sentence", REQUESTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_request_is_named_before_any_step(ldm, method, wrong, sentence):
    with pytest.raises(ValueError) as refusal:
        getattr(ldm, method)(**GIVEN[method] | wrong)
    assert sentence in str(refusal.value)


OTHERS = [    # what a student calls by hand, the sentence
    (lambda: timesteps(0), "steps: got 0, expected an integer from 1 to 1000"),
    (lambda: timesteps(2.5), "steps: got 2.5, expected an integer from 1 to 1000"),
    (lambda: timesteps(13, 12), "steps: got 13, expected an integer from 1 to 12"),
    (lambda: timesteps(1000, spacing="half-open"), "steps: got 1001, expected an integer from 1 to 1000"),
    (lambda: timesteps(10, spacing="even"), "spacing: got 'even', expected one of leading, trailing, linspace"),
    (lambda: Schedule(torch.tensor([0.1, 1.0])), "betas: got values from 0.1 to 1, expected between 0 and 1"),
    (lambda: Schedule(torch.tensor([0.1, float("nan")])), "betas: got values from nan to nan, expected"),
    (lambda: linear_schedule(beta_start=-0.1), "betas: got values from -0.1 to"),
    (lambda: scaled_linear_schedule().snr(1000), "t: got 1000, expected integers from 0 to 999"),
    (lambda: scaled_linear_schedule().snr(torch.tensor([5, -1])), "t: got -1, expected integers from 0 to 999"),
    (lambda: scaled_linear_schedule().snr(0.5), "t: got torch.float32, expected integers from 0 to 999"),
    (lambda: linear_schedule(100).add_noise(X, X, torch.tensor([5, 100])), "t: got 100, expected integers"),
    (lambda: linear_schedule(100).x0_from_eps(X, X, -1), "t: got -1, expected integers from 0 to 99"),
    (lambda: next(ddim(None, X, linear_schedule(), timesteps(5), eta=-0.1)), "eta: got -0.1, expected a number from 0"),
    (lambda: next(ddim(None, X, linear_schedule(), timesteps(5), eta=float("nan"))), "eta: got nan, expected a number"),
    (lambda: UNetConfig(channels=(48, 64), attention=(True, True)), "got (48, 64), expected multiples of groups"),
    (lambda: UNetConfig(channels=(32, 64), attention=(True, True), heads=3), "multiples of groups=32 and heads=3"),
    (lambda: UNetConfig(channels=(32, 64)), "expected one entry for each of channels=(32, 64)"),
    (lambda: AutoencoderConfig(channels=(12, 32), groups=8), "channels: got (12, 32), expected multiples of groups=8"),
    (lambda: TextConfig(dim=100), "dim: got 100, expected a multiple of heads=12"),
    (lambda: ImageConfig(image_size=60, patch_size=8), "image_size: got 60, expected a multiple of patch_size=8"),
    (lambda: Autoencoder(SMALL).encode(torch.zeros(1, 3, 63, 64)), "image: got (1, 3, 63, 64), expected (batch, 3, "),
    (lambda: Autoencoder(SMALL).encode(torch.zeros(1, 1, 64, 64)), "image: got (1, 1, 64, 64), expected (batch, 3, "),
    (lambda: Autoencoder(SMALL).to_latent(torch.full((1, 3, 16, 16), 255.0)), "image: got values up to 255, expected "
                                                                              "pixels in [-1, 1]"),
    (lambda: Autoencoder(SMALL).to_latent(torch.full((1, 3, 16, 16), torch.nan)), "image: got values up to nan"),
    (lambda: LPIPS.tiny()(IMAGE, IMAGE + 255), "image: got values up to 255, expected pixels in [-1, 1]"),
    (lambda: build_tokenizer([]), "words: got none, expected at least one"),
    (lambda: add_lora(Attention(8, 2), rank=0), "rank: got 0, expected an integer from 1 to 4096"),
    (lambda: add_lora(torch.nn.Linear(2, 2)), "module: got a Linear without an Attention"),
    (lambda: TrainConfig(steps=0), "expected steps >= 1, save_every >= 1, lr > 0 and 0 <= ema < 1"),
    (lambda: TrainConfig(5, lr=0), "expected steps >= 1, save_every >= 1, lr > 0 and 0 <= ema < 1"),
    (lambda: TrainConfig(5, precision="float8"), "precision: got 'float8', expected float32 or bfloat16"),
]


@pytest.mark.parametrize("call, sentence", OTHERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_call_is_named(call, sentence):
    with pytest.raises(ValueError) as refusal:
        call()
    assert sentence in str(refusal.value)


def test_the_defaults_are_stable_diffusion_v1s():
    """A claim of the configs' docstrings; the values are those of its published config files."""
    assert UNetConfig() == UNetConfig(4, 4, (320, 640, 1280, 1280), (True, True, True, False), 2, 8, 768, 32, 64)
    assert AutoencoderConfig() == AutoencoderConfig((128, 256, 512, 512), 2, 32, 4, 3, 0.18215)
    assert TextConfig() == TextConfig(49408, 768, 12, 12, 3072, 77, 49407)
    assert (clip.TINY.length, unet.TINY.sample_size) == (32, 8)
