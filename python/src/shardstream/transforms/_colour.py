"""Colours of pictures: jitter, and the numbers that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ._draws import Draws
from ._image import opened
from ._transform import Sample, Transform, TransformError, range_of


@dataclass(frozen=True)
class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue at random, in a random order.

    Args:
        brightness: bounds of the factor; one number b stands for (1 - b, 1 + b), from 0 on.
        contrast: the same.
        saturation: the same.
        hue: bounds of the shift, a share of the circle within (-0.5, 0.5); one number h stands
            for (-h, h).
        field: of the picture.
    """

    brightness: float | tuple[float, float] = 0
    contrast: float | tuple[float, float] = 0
    saturation: float | tuple[float, float] = 0
    hue: float | tuple[float, float] = 0
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("brightness", "contrast", "saturation"):
            range_of(name, _bounds(getattr(self, name), 1, 0), 0)
        low_high = _bounds(self.hue, 0, -0.5)
        range_of("hue", low_high, -0.5)
        if low_high[1] > 0.5:
            raise ValueError(f"hue is within -0.5 and 0.5, not {self.hue!r}")

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Change the colours of the picture."""
        from PIL import ImageEnhance

        enhancers = {
            "brightness": ImageEnhance.Brightness,
            "contrast": ImageEnhance.Contrast,
            "saturation": ImageEnhance.Color,
        }
        image = opened(sample, self.field)
        for name in draws.shuffled(("brightness", "contrast", "saturation", "hue")):
            bounds = getattr(self, name)
            if bounds == 0:
                continue
            if name == "hue":
                image = _turned(image, draws.uniform(*_bounds(bounds, 0, -0.5)))
            else:
                factor = draws.uniform(*_bounds(bounds, 1, 0))
                image = enhancers[name](image).enhance(factor)
        sample[self.field] = image


def _bounds(value: float | tuple[float, float], centre: float, least: float) -> tuple[float, float]:
    if isinstance(value, (int, float)):
        if value < 0:
            return value, value  # which is refused, as it is
        return max(least, centre - value), centre + value
    return value


def _turned(image: Any, shift: float) -> Any:
    """The image with its hues turned by a share of the circle; grey has none."""
    if image.mode == "L":
        return image
    from PIL import Image

    hue, saturation, value = image.convert("RGB").convert("HSV").split()
    steps = int(shift * 255) % 256
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    turned = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if image.mode == "RGBA":
        turned.putalpha(image.getchannel("A"))
    return turned


@dataclass(frozen=True)
class Normalize(Transform):
    """Makes a picture float: (pixel / 255 - mean) / std, in [height, width, channels].

    It makes four times (float16: two times) as many bytes of it, which then travel: on a slow
    network do this in the trainer, where it is one operation on a whole batch.

    Args:
        mean: for each channel.
        std: for each channel.
        dtype: "float32" or "float16".
        field: of the picture.
    """

    mean: Sequence[float]
    std: Sequence[float]
    dtype: Literal["float32", "float16"] = "float32"
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, each in (("mean", self.mean), ("std", self.std)):
            if isinstance(each, (int, float)):
                raise ValueError(f"{name} is a list with one number for each channel, not {each!r}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError("mean and std have one number for each channel")
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std is above 0, not {self.std!r}")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is float32 or float16, not {self.dtype!r}")

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Make the picture dtype[height, width, channels]."""
        pixels = np.asarray(opened(sample, self.field))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.shape[2] != len(self.mean):
            raise TransformError(
                f"field {self.field!r} has {pixels.shape[2]} channels, "
                f"mean and std have {len(self.mean)}"
            )
        std = np.asarray(self.std, np.float32)
        made = pixels * (1 / (255 * std))
        made -= np.asarray(self.mean, np.float32) / std
        sample[self.field] = made.astype(self.dtype, copy=False)
