"""Pictures that cost a decoder what photographs cost it: JPEGs with structure at every scale.

Random bytes would do for loaders that only carry them, but not for one that decodes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

CANVAS = 1500  # the side of the plane that pictures are cut from
QUALITY = 90
GRAIN = 11.0  # of the sensor: most of what a decoder reads
ACROSS = (395, 700)  # bounds of the longer side


class Photographer:
    """Makes JPEGs, about 110 kB in the mean; the same generator makes the same pictures."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._canvas = self._scene()
        grain = rng.normal(0, GRAIN, (CANVAS, CANVAS, 1))
        self._grain = grain.astype(np.float32)

    def _scene(self) -> np.ndarray[Any, Any]:
        """float32[CANVAS, CANVAS, 3] of 0 to 255: coarse shapes strong, fine ones weak."""
        scene = np.zeros((CANVAS, CANVAS, 3), np.float32)
        for side in (6, 12, 25, 50, 100, 200, 400):
            coarse = self._rng.normal(0, 1, (side, side, 3)).astype(np.float32)
            for c in range(3):
                plane = Image.fromarray(coarse[..., c]).resize((CANVAS, CANVAS), 3)
                scene[..., c] += np.asarray(plane) * (30 / side**0.5)
        scene -= scene.mean()
        return scene * (50 / scene.std()) + 120

    def take(self) -> bytes:
        """The next picture, cut from somewhere, brighter or darker, of some size."""
        rng = self._rng
        long = int(rng.integers(*ACROSS))
        short = int(long * rng.uniform(0.6, 1))
        height, width = (short, long) if rng.random() < 0.7 else (long, short)
        top, left = rng.integers(0, CANVAS - height), rng.integers(0, CANVAS - width)
        part = self._canvas[top : top + height, left : left + width] * rng.uniform(0.7, 1.2)
        top, left = rng.integers(0, CANVAS - height), rng.integers(0, CANVAS - width)
        part = part + self._grain[top : top + height, left : left + width] * rng.uniform(0.6, 1.4)
        out = io.BytesIO()
        Image.fromarray(part.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()
