"""Pictures for tests, in every mode and format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

FORMAT_OF = {
    "1": "PNG", "L": "JPEG", "RGB": "JPEG", "CMYK": "JPEG", "LA": "PNG", "P": "PNG", "RGBA": "PNG",
    "I;16": "PNG",
}  # fmt: skip


def smooth(width: int, height: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """uint8[height, width, 3]: waves of several lengths, without noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = np.zeros((height, width, 3))
    for _ in range(8):
        fy, fx = rng.uniform(-12, 12, 2)
        waves += np.sin(2 * np.pi * (fy * y + fx * x))[..., None] * rng.uniform(0, 1, 3)
    made: np.ndarray[Any, Any] = (waves - waves.min()) / max(1e-9, np.ptp(waves)) * 255
    return made.astype(np.uint8)


def encode(image: Image.Image, format: str | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format or FORMAT_OF[image.mode], **options)
    return out.getvalue()


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    """An image file of that size and mode."""
    image = Image.fromarray(smooth(width, height, seed))
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return encode(Image.fromarray(grey), "PNG", **options)
    return encode(image.convert(mode), **options)


def decoded(data: bytes, mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(data)).convert(mode)
