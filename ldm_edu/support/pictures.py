"""Whatever a user has, as pictures and masks of the right size: files, Pillow images, arrays, tensors."""
from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MOST_PIXELS = 50_000_000    # of a file or a Pillow image; a larger one is more likely a mistake, or a bomb
STRIP = 16    # times as long as wide: a longer strip would become huge, scaled to the size of training
Picture = str | os.PathLike | Image.Image | np.ndarray | Tensor


def open_picture(source: str | os.PathLike | Image.Image | np.ndarray) -> Image.Image:
    """Open a file, a Pillow image or a uint8 array (H, W), (H, W, 3) or (H, W, 4) as an upright RGB image.

    EXIF rotations are carried out, transparent pixels become white, other modes are converted. Raises
    FileNotFoundError; ValueError for what cannot be read, is too large, or has another shape, dtype or range.
    """
    image = _upright(source, "image")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def to_pictures(source: Picture | list[Picture], multiple: int, shorter: int | None = None,
                square: int | None = None) -> Tensor:
    """Turn what `open_picture` takes, a tensor, or a list of them into float32 (B, 3, H, W) in [-1, 1].

    Tensors, (3, H, W) or (B, 3, H, W) in [-1, 1], stay as they are. Other pictures are scaled and centre-cropped: to
    `square` × `square`, or, keeping their shape, until the shorter side has `shorter` pixels (None: as it is) and both
    are multiples of `multiple`. Raises ValueError for another shape or range and for several sizes in one list.
    """
    if isinstance(source, Tensor):
        images = source[None] if source.ndim == 3 else source
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or 0 in images.shape:
            raise ValueError(f"image: got {source.dtype} of shape {tuple(source.shape)}, expected floats "
                             "(batch, 3, height, width)")
        low, high = images.amin().item(), images.amax().item()
        if not -10 <= low <= high <= 10:    # decoders overshoot; written so that NaN is outside
            raise ValueError(f"image: got values from {low:.4g} to {high:.4g}, expected [-1, 1]; see datasets.to_float")
        expected = (square, square) if square else [side - side % multiple for side in images.shape[2:]]
        if tuple(images.shape[2:]) != tuple(expected) or 0 in expected:
            size = f"{square} x {square}" if square else f"multiples of {multiple}"
            raise ValueError(f"image: got {images.shape[2]} x {images.shape[3]} pixels, expected {size}")
        return images.float()
    if isinstance(source, (list, tuple)):
        parts = [to_pictures(part, multiple, shorter, square) for part in source]
        if not parts or len({part.shape[2:] for part in parts}) > 1:
            sizes = ", ".join(f"{h} x {w}" for h, w in sorted({tuple(part.shape[2:]) for part in parts}))
            raise ValueError(f"image: got {sizes or 'an empty list'}, expected at least one picture, all of one size")
        return torch.cat(parts)
    image = open_picture(source)
    image = ImageOps.fit(image, _size(image, multiple, shorter, square), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float() / 127.5 - 1


def to_masks(source: Picture, height: int, width: int, multiple: int = 8) -> Tensor:
    """Turn a mask into float32 (B, 1, height, width): 1 where the picture is painted anew, 0 where it stays.

    Files, Pillow images, uint8 arrays: white is 1, black and transparent 0; scaled, and cropped by less than `multiple`
    pixels. Tensors and arrays of bool or, as tensors, of numbers in [0, 1]: of the picture's size. Raises ValueError
    for another size, shape or range, and for a mask that holds no upper left corner of a latent pixel.
    """
    if isinstance(source, np.ndarray) and source.dtype == bool:
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        mask = source.float().reshape(-1, 1, *source.shape[-2:]) if 2 <= source.ndim <= 4 else source.float()
        wrong = mask.ndim != 4 or source.ndim == 4 and source.shape[1] != 1
        if wrong or not mask.numel() or not 0 <= mask.min() <= mask.max() <= 1:
            raise ValueError(f"mask: got {source.dtype} of shape {tuple(source.shape)}, expected numbers in [0, 1] or "
                             "bool, (height, width) or (batch, 1, height, width)")
    else:
        image = _white(_upright(source, "mask"))
        scale = max(width / image.width, height / image.height)
        if max(scale * image.width - width, scale * image.height - height) >= multiple:
            raise ValueError(f"mask: got {image.height} x {image.width} pixels, expected the shape of the image, "
                             f"{height} x {width}")
        image = ImageOps.fit(image, (width, height), Image.Resampling.NEAREST)
        mask = torch.from_numpy(np.array(image))[None, None] / 255
        if 0 < mask.max() <= 1 / 255:
            raise ValueError("mask: got the numbers 0 and 1, expected 0 and 255, or bool")
    if mask.shape[2:] != (height, width):
        raise ValueError(f"mask: got {mask.shape[2]} x {mask.shape[3]} pixels, expected the image's {height} x {width}")
    mask = (mask >= 0.5).float()
    if not mask.any():
        raise ValueError("mask: got only 0, expected 1 somewhere: there is nothing to paint")
    if not mask[..., ::multiple, ::multiple].flatten(1).any(1).all():
        raise ValueError("mask: got one too small to paint anything, expected one that covers the upper left corner of "
                         f"a latent pixel, {multiple} x {multiple} pixels of the image")
    return mask


def _white(image: Image.Image) -> Image.Image:
    """How white a mask is; where it is transparent, black. Raises ValueError for colours on a transparent layer."""
    if not image.has_transparency_data:
        return image.convert("RGB").convert("L")
    *_, alpha = (rgba := image.convert("RGBA")).split()
    grey, visible = np.asarray(rgba.convert("RGB").convert("L")), np.asarray(alpha) >= 128
    if ((grey > 63) & (grey < 192) & visible).sum() > 0.1 * visible.sum():
        raise ValueError("mask: got colours on a transparent layer, expected white where the picture is painted anew, "
                         "and black or nothing elsewhere")
    return Image.fromarray(np.where(visible, grey, 0).astype(np.uint8))


def _upright(source: str | os.PathLike | Image.Image | np.ndarray, name: str) -> Image.Image:
    """Open a picture in a mode of 8 bits, rotated as its EXIF data say. Raises as `open_picture`, with `name`."""
    name = f"{name} {str(source)!r}" if isinstance(source, (str, os.PathLike)) else name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)    # ours is the stricter limit
            image = _opened(source, name)
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{name}: got {image.width} x {image.height} pixels, expected at most {MOST_PIXELS:,}")
            image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}; expected at most {MOST_PIXELS:,} pixels") from error
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:    # Pillow's, for what it cannot read or finds broken
        raise ValueError(f"{name}: no picture that can be read: {error}") from error
    with suppress(Exception):    # of broken EXIF data, for which Pillow has many; the pixels are good
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{name}: got Pillow's mode {image.mode}, numbers of an unknown range; expected 8 or 16 bits")
    return image


def _opened(source: str | os.PathLike | Image.Image | np.ndarray, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Image.open(Path(source))
    if not isinstance(source, np.ndarray):
        raise ValueError(f"{name}: got {type(source).__name__}, expected a path, a Pillow image, an array or a tensor")
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.ndim == 3 and source.shape[2] not in (3, 4) \
            or 0 in source.shape:
        raise ValueError(f"{name}: got an array of {source.dtype} and shape {source.shape}, expected uint8 (height, "
                         "width), with 3 or 4 channels as a third dimension; floats as a tensor (3, height, width)")
    return Image.fromarray(source)


def _size(image: Image.Image, multiple: int, shorter: int | None, square: int | None) -> tuple[int, int]:
    """(width, height) to which `image` is brought."""
    if square:
        return square, square
    if max(image.size) > STRIP * min(image.size):
        raise ValueError(f"image: got {image.width} x {image.height} pixels, expected the longer side to be at most "
                         f"{STRIP} times the shorter")
    scale = shorter / min(image.size) if shorter else 1
    return tuple(max(multiple, round(side * scale) // multiple * multiple) for side in image.size)
