"""Parity at full size: the true configs of Stable Diffusion v1, random weights, float32 on the CPU.

`make test-slow`. Both sides share one copy of each network's weights (860 million in the U-Net): about 8 GB of memory
and five minutes on two cores. The weights hide nothing, see reference.py.
"""
import diffusers
import pytest
import torch
from reference import error, perturb, reference_autoencoder, reference_text, reference_tokenizer, reference_unet

from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig
from ldm_edu.clip import TextConfig, TextTransformer
from ldm_edu.conditioning import TextEncoder
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.schedule import scaled_linear_schedule
from ldm_edu.tiny_worlds.captions import vocabulary
from ldm_edu.tokenizer import build_tokenizer
from ldm_edu.unet import UNet, UNetConfig
from ldm_edu.weights import AUTOENCODER, TEXT, UNET

TOLERANCE = 1e-4    # the largest difference, relative to the root mean square
PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text": 123_060_480}    # as published
V1_5 = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1)    # its scheduler, as DDIM

pytestmark = pytest.mark.slow


def both(layout, reference, model):
    """(theirs, ours): their model with weights drawn in place, and ours, made of the same tensors."""
    perturb(reference)
    weights = {layout.ours(name): value for name, value in reference.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    first, shared = next(iter(weights)), model.state_dict()
    assert shared[first].data_ptr() == weights[first].data_ptr(), "a second copy of the weights"
    return reference, model.eval().requires_grad_(False)


def on_meta(build):
    """What `build` makes, without the time that drawing its first weights would take."""
    with torch.device("meta"):
        return build()


@pytest.fixture(scope="module")
def unets():
    return both(UNET, on_meta(lambda: reference_unet(UNetConfig())).to_empty(device="cpu"), on_meta(UNet))


@pytest.fixture(scope="module")
def autoencoders():
    theirs = on_meta(lambda: reference_autoencoder(AutoencoderConfig())).to_empty(device="cpu")
    return both(AUTOENCODER, theirs, on_meta(Autoencoder))


@pytest.fixture(scope="module")
def texts():
    return both(TEXT, reference_text(TextConfig()), on_meta(TextTransformer))


def draw(*shape: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def compare(what: str, found, expected) -> None:
    measured = error(found, expected)
    print(f"full size, {what}: {measured:.1e} of the root mean square")    # for the model card; pytest -rP shows it
    assert measured <= TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_published(name, request):
    theirs, ours = request.getfixturevalue({"unet": "unets", "vae": "autoencoders", "text": "texts"}[name])
    for model in (theirs, ours):
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@torch.no_grad()
def test_text(texts):
    theirs, ours = texts
    ids = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[0, 12:], ids[1, 40:] = 49406, 49407, 49407
    compare("text", ours(ids), theirs(ids).last_hidden_state)


@torch.no_grad()
def test_unet_512_px(unets):
    theirs, ours = unets
    x, t, context = draw(1, 4, 64, 64), torch.tensor([801]), draw(1, 77, 768)
    compare("U-Net, 64 x 64 latent", ours(x, t, context), theirs(x, t, context).sample)


@torch.no_grad()
def test_autoencoder_256_px(autoencoders):
    theirs, ours = autoencoders
    image, z = draw(1, 3, 256, 256).clamp(-1, 1), draw(1, 4, 32, 32)
    compare("encoder, 256 px", ours.encode(image)[0], theirs.encode(image).latent_dist.mean)
    compare("decoder, 256 px", ours.decode(z), theirs.decode(z).sample)


def test_five_guided_steps_256_px(unets, autoencoders, texts):
    tokenizer = build_tokenizer(vocabulary(), length=77)    # any will do, the same on both sides
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unets[0], vae=autoencoders[0], text_encoder=texts[0], tokenizer=reference_tokenizer(tokenizer),
        scheduler=diffusers.DDIMScheduler(**V1_5), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    prompt, seed = "a big red house on the left, at night, on the snow", torch.Generator().manual_seed(3)
    expected = pipeline(prompt, height=256, width=256, num_inference_steps=5, guidance_scale=7.5, generator=seed,
                        output_type="latent").images
    ldm = LatentDiffusion(unets[1], autoencoders[1], TextEncoder(tokenizer, texts[1]), scaled_linear_schedule())
    *_, last = ldm.denoise(prompt, 5, 7.5, seed=3, size=256)
    compare("five guided steps of text-to-image, 256 px", last.x, expected)
