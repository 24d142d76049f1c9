"""The study of the first stage: equal conditions for every loss, the codebook's rules, and what is stored."""
import shutil

import pytest
import torch

from ldm_edu.studies import first_stage as study
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.first_stage import (
    LOSSES,
    SIZES,
    LeanAutoencoder,
    VectorQuantizer,
    learn,
    load_study,
    perplexity,
    random_crops,
)
from ldm_edu.training import TrainConfig


def test_crops_are_parts_of_the_pictures():
    images = torch.arange(2 * 3 * 40 * 48).remainder(251).view(2, 3, 40, 48).byte()
    crops = random_crops(images, torch.Generator().manual_seed(0), batch=6, side=16)
    whole = (images.float() / 127.5 - 1).unfold(2, 16, 1).unfold(3, 16, 1)    # every crop there is
    for crop in crops:
        assert (whole.movedim(1, 3) == crop).all((3, 4, 5)).any()


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_the_lean_autoencoder_has_the_shapes_of_the_other(factor):
    model, x = LeanAutoencoder(factor), torch.zeros(2, 3, 16, 24)
    mean, logvar = model.encode(x)
    assert mean.shape == logvar.shape == (2, 4, 16 // factor, 24 // factor)
    assert model.decode(mean).shape == x.shape


def test_every_loss_starts_from_the_same_weights_and_sees_the_same_crops(monkeypatch):
    images = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    seen = []
    monkeypatch.setattr(study, "random_crops",
                        lambda *args: seen.append(random_crops(*args, batch=2)) or seen[-1])
    firsts = {name: next(learn(weights, images, TrainConfig(1))).losses for name, weights in LOSSES.items()}
    assert all(torch.equal(batch, seen[0]) for batch in seen) and len(seen) == 4
    errors = [losses["l1"] for name, losses in firsts.items() if name != "L2"]
    assert errors == pytest.approx([errors[0]] * 3)


# --- the codebook

def quantizer(size=7, channels=3, **options):
    torch.manual_seed(0)
    module = VectorQuantizer(size, channels, **options)
    module.codebook.normal_()
    return module


def latent():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_each_pixel_gets_the_nearest_code():
    module, z = quantizer().eval(), latent()
    codes, _, numbers = module(z)
    assert codes.shape == z.shape and numbers.shape == (2, 4, 5) and len(numbers.unique()) > 3
    for b in range(2):
        for y in range(4):
            for x in range(5):
                distances = [(z[b, :, y, x] - code).square().sum().item() for code in module.codebook]
                assert numbers[b, y, x] == distances.index(min(distances))
                torch.testing.assert_close(codes[b, :, y, x], module.codebook[numbers[b, y, x]])


@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_the_gradients_of_decoder_and_commitment(commitment):
    module, z = quantizer(commitment=commitment).eval(), latent()
    codes, loss, numbers = module(z)
    gradient = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(*torch.autograd.grad(codes, z, gradient), gradient)    # straight through
    error = z.detach() - module.codebook[numbers].movedim(-1, 1)
    torch.testing.assert_close(loss, commitment * error.square().mean())
    torch.testing.assert_close(*torch.autograd.grad(loss, z), commitment * 2 * error / error.numel())


def test_codes_follow_the_means_of_their_latents():
    """As sums and counts averaged over the batches, the paper's form."""
    module = quantizer(decay=0.9, restarts=False).train()
    sums, counts = torch.zeros(7, 3), torch.zeros(7)
    for seed in range(5):
        vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
        before = module.codebook.clone()
        numbers = torch.cdist(vectors, before).argmin(1)
        module(vectors.T.reshape(1, 3, 20, 1))
        for k in range(7):
            counts[k] = 0.9 * counts[k] + 0.1 * (numbers == k).sum()
            sums[k] = 0.9 * sums[k] + 0.1 * vectors[numbers == k].sum(0)
            expected = sums[k] / counts[k] if counts[k] else before[k]
            torch.testing.assert_close(module.codebook[k], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("restarts", [True, False])
def test_dead_codes_begin_again_at_a_latent(restarts):
    module = VectorQuantizer(4, 3, restarts=restarts).train()
    module.codebook.copy_(torch.tensor([[0.0] * 3, [50.0] * 3, [60.0] * 3, [70.0] * 3]))
    module.count.copy_(torch.tensor([40.0, 0, 0, 0]))
    z = latent().detach()
    module(z)
    alive = [(z.movedim(1, -1) == code).all(-1).any().item() for code in module.codebook[1:]]
    assert alive == [restarts] * 3
    module.eval()(z + 100)
    assert module.codebook.max() < 80, "only training moves codes"


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.zeros(5, 2, 2, dtype=torch.long), 8) == 1
    torch.testing.assert_close(perplexity(torch.arange(8).repeat(3), 8), torch.tensor(8.0))
    torch.testing.assert_close(perplexity(torch.tensor([5, 2, 5, 2]), 8), torch.tensor(2.0))
    shares = torch.tensor([0.75, 0.25])
    torch.testing.assert_close(perplexity(torch.tensor([0, 0, 1, 0]), 8), (-(shares * shares.log()).sum()).exp())


# --- what is stored

def test_the_stored_study_is_whole():
    models, rows = load_study()
    assert list(models) == list(LOSSES)
    for size in SIZES:
        found = [row for row in rows if row[:5] == size]
        assert [row.step for row in found] == [600, 1200, 1800, 2400], size
        assert all(15 < row.PSNR < 50 and 0 < row.LPIPS < 0.3 and 0.4 < row.oracle <= 1 for row in found), size
        assert all((1 < row.perplexity <= row.codes) == bool(row.codes) for row in found), size


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    shutil.copytree(study.FOLDER, tmp_path / "losses")
    monkeypatch.setattr(study, "SIZES", [*SIZES[:1], (8, 1, 4, 1, 5)])
    main(["first_stage", "--scenes", "2", "--count", "4", "--steps", "4", "--out", str(tmp_path / "losses")])
    _, rows = load_study(tmp_path / "losses")
    _, before = load_study()
    assert rows[:len(before)] == before and [row.step for row in rows[len(before):]] == [1, 2, 3, 4]
    for path in study.FOLDER.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "losses" / path.name).read_bytes()
