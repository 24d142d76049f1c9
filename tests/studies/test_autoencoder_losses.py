"""The study of four losses: its measures on pictures of known spectrum, equal conditions, and what it has stored."""
import math
import shutil

import pytest
import torch

from ldm_edu.studies import autoencoder_losses as study
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.autoencoder_losses import (
    LOSSES,
    LeanAutoencoder,
    learn,
    load_study,
    random_crops,
    sharpness,
    spectrum,
)
from ldm_edu.training import TrainConfig

WAVES = 2 * math.pi * torch.arange(32) / 32


def stripes(count):
    return torch.cos(count * WAVES).expand(1, 3, 32, 32)


@pytest.mark.parametrize("count", [3, 8, 14])
def test_stripes_lie_at_their_number_of_waves(count):
    for images in (stripes(count), stripes(count).mT):
        energy = spectrum(images)
        assert energy.shape == (17,) and energy.argmax() == count
        assert energy[count - 2:count + 3].sum() > 0.99 * energy.sum()    # the window spreads a line a little


def test_no_energy_is_lost():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(32)
    expected = (images * window * window[:, None]).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(spectrum(images).sum(), expected)


def test_sharpness_is_the_share_of_fine_waves():
    coarse, fine = stripes(3), stripes(12)
    assert sharpness(coarse + fine, coarse + fine) == 1
    assert sharpness(coarse + fine / 2, coarse + fine) == pytest.approx(0.25, abs=1e-3)
    assert sharpness(coarse, coarse + fine) < 1e-3


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


def test_the_stored_study_is_whole():
    models, table = load_study()
    assert list(models) == list(table) == list(LOSSES)
    for name, row in table.items():
        assert set(row) == {"loss", "sharpness", "LPIPS", "PSNR", "oracle"}
        assert 0 < row["sharpness"] < 2 and 15 < row["PSNR"] < 50 and 0 < row["LPIPS"] < 0.2, name


def test_the_stored_four_can_be_evaluated_again_without_training(tmp_path):
    shutil.copytree(study.FOLDER, tmp_path / "losses")
    (tmp_path / "losses/table.csv").unlink()
    main(["autoencoder_losses", "--evaluate", "--count", "16", "--out", str(tmp_path / "losses")])
    _, table = load_study(tmp_path / "losses")
    assert list(table) == list(LOSSES) and all(row["oracle"] > 0.9 for row in table.values())
    for path in study.FOLDER.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "losses" / path.name).read_bytes()
