"""Whatever a user has, as pictures and masks of the right size: files, Pillow images, arrays, tensors."""
from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MOST_PIXELS = 50_000_000    # of a file or a Pillow image; a larger one is more likely a mistake, or a bomb
Picture = str | os.PathLike | Image.Image | np.ndarray | Tensor


def open_picture(source: str | os.PathLike | Image.Image | np.ndarray) -> Image.Image:
    """Open a file, a Pillow image or a uint8 array (H, W), (H, W, 3) or (H, W, 4) as an upright RGB image.

    EXIF rotations are carried out, transparent pixels become white, other modes are converted. Raises
    FileNotFoundError; ValueError for what cannot be read, is too large, or has another shape, dtype or range.
    """
    name = f"image {str(source)!r}" if isinstance(source, (str, os.PathLike)) else "image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)    # ours is the stricter limit
            image = _opened(source)
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{name}: got {image.width} x {image.height} pixels, expected at most {MOST_PIXELS:,}")
            image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}; expected at most {MOST_PIXELS:,} pixels") from error
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:    # Pillow's, for what it cannot read or finds broken
        raise ValueError(f"{name}: no picture that can be read: {error}") from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"{name}: got Pillow's mode {image.mode}, numbers of an unknown range; expected 8 or 16 bits")
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


def to_masks(source: Picture, height: int, width: int) -> Tensor:
    """Turn a mask into float32 (B, 1, height, width): 1 where the picture is painted anew, 0 where it stays.

    Files, Pillow images, uint8 arrays: white is 1, scaled and cropped like pictures. Tensors: bool or numbers in
    [0, 1], of the picture's size. Raises ValueError for another size, shape or range, and if there is nothing to paint.
    """
    if isinstance(source, Tensor):
        mask = source.float().reshape(-1, 1, *source.shape[-2:]) if 2 <= source.ndim <= 4 else source.float()
        wrong = mask.ndim != 4 or source.ndim == 4 and source.shape[1] != 1
        if wrong or not mask.numel() or not 0 <= mask.min() <= mask.max() <= 1:
            raise ValueError(f"mask: got {source.dtype} of shape {tuple(source.shape)}, expected numbers in [0, 1] or "
                             "bool, (height, width) or (batch, 1, height, width)")
    else:
        image = ImageOps.fit(open_picture(source).convert("L"), (width, height), Image.Resampling.NEAREST)
        mask = torch.from_numpy(np.array(image))[None, None] / 255
    if mask.shape[2:] != (height, width):
        raise ValueError(f"mask: got {mask.shape[2]} x {mask.shape[3]} pixels, expected the image's {height} x {width}")
    mask = (mask >= 0.5).float()
    if not mask.any():
        raise ValueError("mask: got only 0, expected 1 somewhere: there is nothing to paint")
    return mask


def _opened(source: str | os.PathLike | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Image.open(Path(source))
    if not isinstance(source, np.ndarray):
        raise ValueError(f"image: got {type(source).__name__}, expected a path, a Pillow image, an array or a tensor")
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.ndim == 3 and source.shape[2] not in (3, 4) \
            or 0 in source.shape:
        raise ValueError(f"image: got an array of {source.dtype} and shape {source.shape}, expected uint8 (height, "
                         "width), with 3 or 4 channels as a third dimension; floats as a tensor (3, height, width)")
    return Image.fromarray(source)


def _size(image: Image.Image, multiple: int, shorter: int | None, square: int | None) -> tuple[int, int]:
    """(width, height) to which `image` is brought."""
    if square:
        return square, square
    scale = shorter / min(image.size) if shorter else 1
    return tuple(max(multiple, round(side * scale) // multiple * multiple) for side in image.size)
