"""Crops, sizes, flips and turns of pictures, as torchvision defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ._draws import Draws
from ._image import Interpolation, check_interpolation, opened, resized, size_in
from ._transform import Sample, Transform, probability, range_of, size_of

_TRIES = 10  # of a crop that fits, before the centre is taken


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Crops a random part of a picture and resizes it, torchvision's transform of that name.

    The part's area is uniform in `scale`, a share of the picture's; the logarithm of its ratio of
    width to height is uniform in that of `ratio`; its place is uniform. Of ten parts that do not
    fit the centre is taken.

    Args:
        size: of the result, (height, width) or one number for both.
        scale: bounds of the area.
        ratio: bounds of width / height.
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming".
        reduce: let the decoder give a JPEG at a half, a quarter or an eighth of its size, as long
            as the part is no smaller than `size` then, and shrink other large pictures in two
            steps. Much less work for large photographs. False: all at full size, exactly what
            torchvision makes of a Pillow image.
        field: of the picture.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    reduce: bool = True
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        size_of("size", self.size)
        range_of("scale", self.scale, 1e-6)
        range_of("ratio", self.ratio, 1e-6)
        check_interpolation(self.interpolation)

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Crop and resize: the picture is `size`."""
        width, height = size_in(sample, self.field)
        left, top, w, h = self.part(width, height, draws)
        sample[self.field] = resized(
            sample, self.field, (left, top, left + w, top + h),
            size_of("size", self.size), self.interpolation, self.reduce,
        )  # fmt: skip

    def part(self, width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the crop of a picture of that size."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_TRIES):
            area = width * height * draws.uniform(*self.scale)
            aspect = math.exp(draws.uniform(low, high))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = draws.integer(height - h + 1)
                return draws.integer(width - w + 1), top, w, h
        w, h = width, height
        if width / height < min(self.ratio):
            h = max(1, min(height, round(width / min(self.ratio))))
        elif width / height > max(self.ratio):
            w = max(1, min(width, round(height * max(self.ratio))))
        return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class Resize(Transform):
    """Resizes a picture.

    Args:
        size: (height, width); or one number, to which the shorter edge is brought, the longer one
            in proportion.
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming".
        reduce: as of `RandomResizedCrop`.
        field: of the picture.
    """

    size: int | tuple[int, int]
    interpolation: Interpolation = "bilinear"
    reduce: bool = True
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        size_of("size", self.size)
        check_interpolation(self.interpolation)

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Resize the whole picture."""
        width, height = size_in(sample, self.field)
        if isinstance(self.size, int):
            short, long = min(width, height), max(width, height)
            other = max(1, int(self.size * long / short))
            size = (other, self.size) if width <= height else (self.size, other)
        else:
            size = size_of("size", self.size)
        box = (0, 0, width, height)
        sample[self.field] = resized(sample, self.field, box, size, self.interpolation, self.reduce)


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Crops the centre of a picture; what lies outside of a smaller one is black.

    Args:
        size: (height, width) or one number for both.
        field: of the picture.
    """

    size: int | tuple[int, int]
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        size_of("size", self.size)

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Crop: the picture is `size`."""
        height, width = size_of("size", self.size)
        image = opened(sample, self.field)
        left = _middle(image.width, width)
        top = _middle(image.height, height)
        sample[self.field] = image.crop((left, top, left + width, top + height))


def _middle(have: int, want: int) -> int:
    """Where a part of `want` begins in the middle of `have`, rounded as torchvision does."""
    return -((want - have) // 2) if have < want else round((have - want) / 2)


@dataclass(frozen=True)
class RandomHorizontalFlip(Transform):
    """Mirrors left and right, with probability p."""

    p: float = 0.5
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        probability(self.p)

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Flip, or leave the picture."""
        _flip(sample, self.field, self.p, 0, draws)


@dataclass(frozen=True)
class RandomVerticalFlip(Transform):
    """Mirrors top and bottom, with probability p."""

    p: float = 0.5
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        probability(self.p)

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Flip, or leave the picture."""
        _flip(sample, self.field, self.p, 1, draws)


def _flip(sample: Sample, field: str, p: float, method: int, draws: Draws) -> None:
    if draws.chance(p):
        sample[field] = opened(sample, field).transpose(method)


@dataclass(frozen=True)
class RandomRotation(Transform):
    """Turns a picture around its centre, by a random angle.

    Args:
        degrees: bounds of the angle, counter-clockwise; one number d stands for (-d, d).
        interpolation: "nearest", "bilinear" or "bicubic".
        expand: enlarge the result so that nothing is cut off; its size then varies.
        fill: of the corners: one value, or one for each channel.
        field: of the picture.
    """

    degrees: float | tuple[float, float]
    interpolation: Interpolation = "nearest"
    expand: bool = False
    fill: int | Sequence[int] = 0
    field: str = "image"

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        range_of("degrees", self._bounds(), -1e6)
        if self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(
                f"interpolation is nearest, bilinear or bicubic, not {self.interpolation!r}"
            )

    def _bounds(self) -> tuple[float, float]:
        if isinstance(self.degrees, (int, float)):
            return -self.degrees, self.degrees
        return self.degrees

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Turn: the picture keeps its size, unless it expands."""
        image = opened(sample, self.field)
        angle = draws.uniform(*self._bounds())
        bands = len(image.getbands())
        fill = (self.fill,) * bands if isinstance(self.fill, int) else tuple(self.fill)
        method = {"nearest": 0, "bilinear": 2, "bicubic": 3}[self.interpolation]
        colour = fill[0] if bands == 1 else fill
        sample[self.field] = image.rotate(angle, method, self.expand, fillcolor=colour)
