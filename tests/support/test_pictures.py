"""What users have, as tensors: files, Pillow images, arrays; which way is up, sizes, masks; and what is refused."""
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw

from ldm_edu.support import pictures
from ldm_edu.support.pictures import open_picture, to_masks, to_pictures

CORNERS = np.zeros((16, 24, 3), np.uint8)    # red at the upper left, green at the lower right
CORNERS[:8, :12, 0] = 255
CORNERS[8:, 12:, 1] = 255


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def test_a_file_an_image_and_an_array_are_the_same_picture(tmp_path):
    expected = torch.from_numpy(CORNERS).movedim(-1, 0)[None] / 127.5 - 1
    path = saved(Image.fromarray(CORNERS), tmp_path / "corners.png")
    for source in (path, str(path), Image.fromarray(CORNERS), CORNERS, expected, expected[0]):
        found = to_pictures(source, multiple=8)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert to_pictures([CORNERS, path, expected], multiple=8).shape == (3, 3, 16, 24)


@pytest.mark.parametrize("orientation, turned", [
    (1, CORNERS), (2, CORNERS[:, ::-1]), (3, CORNERS[::-1, ::-1]), (4, CORNERS[::-1]),
    (6, np.rot90(CORNERS, -1)), (8, np.rot90(CORNERS))])
def test_what_a_camera_notes_of_its_rotation_is_carried_out(orientation, turned, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(CORNERS), tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(open_picture(path)), turned)


@pytest.mark.parametrize("mode, grey", [("1", 255), ("L", 100), ("LA", 100), ("P", 100), ("CMYK", 100), ("YCbCr", 100)])
def test_every_mode_becomes_rgb(mode, grey):
    found = np.asarray(open_picture(Image.new("L", (4, 4), grey).convert(mode)))
    assert found.shape == (4, 4, 3) and abs(found.astype(int) - grey).max() <= 1


def test_sixteen_bits_are_scaled_and_not_cut():
    values = np.array([[0, 257 * 100], [65535, 257 * 200]], np.uint16)
    found = np.asarray(open_picture(Image.fromarray(values)))
    assert found[..., 0].tolist() == [[0, 100], [255, 200]]


def test_what_is_transparent_becomes_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    assert np.asarray(open_picture(image)).tolist() == [[[255, 255, 255], [255, 127, 127]]]
    palette = Image.new("P", (1, 1), 0)
    palette.info["transparency"] = 0
    assert np.asarray(open_picture(palette)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("size, options, expected", [
    ((200, 100), dict(multiple=8), (96, 200)),
    ((200, 100), dict(multiple=8, shorter=64), (64, 128)),
    ((90, 200), dict(multiple=8, shorter=64), (136, 64)),
    ((30, 20), dict(multiple=8, shorter=64), (64, 96)),
    ((5, 5), dict(multiple=8), (8, 8)),
    ((200, 100), dict(multiple=8, square=64), (64, 64)),
])
def test_sizes(size, options, expected):
    assert to_pictures(Image.new("RGB", size), **options).shape == (1, 3, *expected)


def test_a_picture_is_cropped_at_its_centre_and_not_squeezed():
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    found = to_pictures(wide, 8, square=64)
    assert found.mean() > 0.98 and (found[..., 2:-2] > 0.95).all()    # Lanczos looks a little over the edge


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken_jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "jpeg")
    return file.getvalue()[:700]


@pytest.mark.parametrize("data, message", [
    (b"", "no picture that can be read"), (b"GIF89a nonsense", "no picture that can be read"),
    (broken_jpeg(), "no picture that can be read"), (bomb(), "expected at most 50,000,000"),
], ids=["empty", "no picture", "cut off", "bomb"])
def test_bad_files_are_named(data, message, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"image .*bad.png.*{message}"):
        to_pictures(path, 8)


def test_a_huge_image_that_is_open_already_is_refused_unread(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="got 40 x 30 pixels, expected at most 1,000"):
        open_picture(Image.new("RGB", (40, 30)))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        to_pictures(tmp_path / "nowhere.png", 8)


@pytest.mark.parametrize("source, options, message", [
    (7, {}, "got int, expected a path, a Pillow image, an array or a tensor"),
    (np.zeros((8, 8, 3)), {}, "got an array of float64"),
    (np.zeros((8, 8, 5), np.uint8), {}, r"shape \(8, 8, 5\)"),
    (np.zeros((0, 8, 3), np.uint8), {}, r"shape \(0, 8, 3\)"),
    (Image.new("F", (8, 8)), {}, "mode F"),
    (torch.zeros(1, 4, 8, 8), {}, r"got torch.float32 of shape \(1, 4, 8, 8\)"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "got torch.uint8"),
    (torch.zeros(1, 3, 12, 8), {}, "got 12 x 8 pixels, expected multiples of 8"),
    (torch.zeros(1, 3, 4, 4), {}, "got 4 x 4 pixels, expected multiples of 8"),
    (torch.zeros(1, 3, 8, 8), dict(square=16), "got 8 x 8 pixels, expected 16 x 16"),
    (torch.full((1, 3, 8, 8), 255.0), {}, r"got values from 255 to 255, expected \[-1, 1\]"),
    (torch.full((1, 3, 8, 8), float("nan")), {}, "got values from nan to nan"),
    ([], {}, "got an empty list"),
    ([Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))], {}, "got 8 x 8, 8 x 16, expected"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_pictures_are_named(source, options, message):
    with pytest.raises(ValueError, match=message):
        to_pictures(source, 8, **options)


def test_masks():
    """White of a picture, true of a tensor: there it is painted anew."""
    expected = torch.zeros(1, 1, 8, 16)
    expected[..., 8:] = 1
    white = np.uint8(255 * expected[0, 0].numpy())
    half = Image.fromarray(white).resize((8, 4))
    for source in (white, Image.fromarray(white), half, expected, expected[0], expected[0, 0].bool(), 0.5 * expected):
        assert torch.equal(to_masks(source, 8, 16), expected)
    assert to_masks(torch.ones(3, 8, 16), 8, 16).shape == (3, 1, 8, 16)
    assert torch.equal(to_masks(expected[0, 0].bool().numpy(), 8, 16), expected)


@pytest.mark.parametrize("under", [(0, 0, 0, 0), (255, 255, 255, 0), (200, 30, 30, 0)])
def test_white_strokes_on_a_transparent_layer(under, tmp_path):
    """As paint programs save a mask, whatever colour the pixels have that nobody sees; diffusers' reading, if black."""
    mask = Image.new("RGBA", (64, 64), under)
    ImageDraw.Draw(mask).ellipse((20, 20, 44, 44), fill="white")
    mask.save(tmp_path / "mask.png")
    found = to_masks(tmp_path / "mask.png", 64, 64)
    assert found.mean() == pytest.approx(3.14159 * 12.5**2 / 64**2, rel=0.03)
    processor = VaeImageProcessor(vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    if under == (0, 0, 0, 0):
        assert torch.equal(found, processor.preprocess(Image.open(tmp_path / "mask.png"), 64, 64))
    opaque = Image.alpha_composite(Image.new("RGBA", (64, 64), "black"), mask)
    assert torch.equal(found, to_masks(opaque, 64, 64))


def test_a_mask_of_the_picture_s_shape_is_cropped_as_the_picture():
    """100 x 70 pixels: both are scaled to a height of 64 and lose the same columns."""
    picture, mask = Image.new("RGB", (100, 70), "black"), Image.new("L", (100, 70))
    ImageDraw.Draw(picture).rectangle((50, 0, 99, 69), fill="white")
    ImageDraw.Draw(mask).rectangle((50, 0, 99, 69), fill="white")
    found = to_pictures(picture, 8, shorter=64)
    assert torch.equal(to_masks(mask, *found.shape[2:])[0, 0, 0] > 0.5, found[0, 0, 0] > 0)


PHOTO = Image.merge("RGBA", [Image.linear_gradient("L").resize((8, 8))] * 3 + [Image.new("L", (8, 8), 255)])
PHOTO.putpixel((0, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("mask, message", [
    (torch.zeros(8, 8), "mask: got only 0, expected 1 somewhere: there is nothing to paint"),
    (Image.new("L", (8, 8), 127), "mask: got only 0"),
    (torch.ones(8, 16), "mask: got 8 x 16 pixels, expected the image's 8 x 8"),
    (torch.full((8, 8), 255.0), r"mask: got torch.float32 of shape \(8, 8\), expected numbers in \[0, 1\]"),
    (torch.full((8, 8), float("nan")), "mask: got"),
    (torch.ones(1, 3, 8, 8), r"mask: got torch.float32 of shape \(1, 3, 8, 8\)"),
    (torch.ones(8), r"mask: got torch.float32 of shape \(8,\)"),
    (np.eye(8, dtype=np.uint8), "mask: got the numbers 0 and 1, expected 0 and 255, or bool"),
    (np.eye(8, dtype=np.float32), "mask: got an array of float32"),
    (np.zeros((4, 8), bool), "mask: got 4 x 8 pixels, expected the image's 8 x 8"),
    (Image.new("L", (24, 8), 255), "mask: got 8 x 24 pixels, expected the shape of the image, 8 x 8"),
    (torch.arange(64).view(8, 8) == 9, "mask: got one too small to paint anything, .* 8 x 8 pixels of the image"),
    (torch.stack([torch.ones(8, 8), torch.arange(64).view(8, 8) == 9]), "mask: got one too small to paint anything"),
    (PHOTO, "mask: got colours on a transparent layer, expected white where the picture is painted anew"),
    ("nowhere.png", FileNotFoundError),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_masks_are_named(mask, message):
    with pytest.raises(message if isinstance(message, type) else ValueError,
                       match=None if isinstance(message, type) else message):
        to_masks(mask, 8, 8)


def test_a_picture_with_broken_exif_data_is_opened_unrotated(tmp_path):
    picture = Image.new("RGB", (16, 8), "red")
    picture.save(tmp_path / "odd.png", exif=b"hello")
    picture.save(tmp_path / "odd.webp", exif=b"hello", lossless=True)
    for name in ("odd.png", "odd.webp"):
        assert open_picture(tmp_path / name).size == (16, 8)


def test_a_strip_is_refused_where_its_shape_is_kept():
    strip = Image.new("RGB", (1, 3000))
    with pytest.raises(ValueError, match="image: got 1 x 3000 pixels, expected the longer side to be at most 16 times"):
        to_pictures(strip, 8, shorter=64)
    assert to_pictures(strip, 8, square=64).shape == (1, 3, 64, 64)
