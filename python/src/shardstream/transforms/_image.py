"""Pictures: decoded as late as possible, so that a crop can say how much of one is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ._draws import Draws
from ._transform import Sample, Transform, TransformError, value_of

Box = tuple[float, float, float, float]  # left, top, right, bottom

#: As of the decoders of the nodes: more pixels than this are an attack, not a photograph.
MAX_PIXELS = 8192 * 8192
#: What is tried, whatever a field is called. No format that runs other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MODES = ("RGB", "L", "RGBA")
INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

#: Of an EXIF orientation: Pillow's transposition, and whether it mirrors x and y as seen then.
_TRANSPOSITIONS = {
    2: (0, True, False), 3: (3, True, True), 4: (1, False, True), 5: (5, False, False),
    6: (4, True, False), 7: (6, True, True), 8: (2, False, True),
}  # fmt: skip
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decode(Transform):
    """Decodes a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM, told by its content.

    The picture replaces the field. Grey, palette, CMYK and 16-bit pictures (their upper 8 bits)
    become `mode`; "RGB" drops transparency. Of an animation it is the first picture. A truncated or
    damaged file is an error, as is one of more than 8192 x 8192 pixels.

    Args:
        field: of the sample; of several names, the first that the sample has.
        to: the field that the picture becomes; other transforms take "image" by default.
        mode: "RGB", "L" (grey, by ITU-R 601) or "RGBA".
        apply_exif_orientation: turn pictures as their EXIF says, which cameras write.
    """

    field: str | Sequence[str] = ("jpg", "jpeg", "png", "webp")
    to: str = "image"
    mode: Literal["RGB", "L", "RGBA"] = "RGB"
    apply_exif_orientation: bool = False

    requirements: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if not self._names() or not all(self._names()) or not self.to:
            raise ValueError("field and to are names of fields, not empty")

    def _names(self) -> tuple[str, ...]:
        if isinstance(self.field, str):
            return (self.field,)
        return tuple(self.field) if isinstance(self.field, Sequence) else ()

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Put the picture, its header read, in the place of the bytes."""
        names = self._names()
        field = next((name for name in names if name in sample), names[0])
        data = value_of(sample, field)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TransformError(f"field {field!r} is {type(data).__name__}, not an image file")
        picture = Picture(field, data, self.mode, self.apply_exif_orientation)
        del sample[field]
        sample[self.to] = picture


class Picture:
    """An image file whose header has been read, and whose pixels have not."""

    def __init__(self, field: str, data: Any, mode: str, oriented: bool) -> None:
        """Read the header."""
        self._field = field
        self._mode = mode
        self._data = data
        try:
            image = self._open()
            self._turn = _TRANSPOSITIONS.get(_orientation(image)) if oriented else None
        except Exception as error:  # what a decoder raises at damage is of many kinds
            raise self._fault(error) from None
        self._image: Any = image
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise TransformError(
                f"field {field!r} is an image of {width} x {height} pixels; "
                f"at most {MAX_PIXELS} are decoded"
            )
        sideways = self._turn is not None and self._turn[0] in (2, 4, 5, 6)
        self.size = (height, width) if sideways else (width, height)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """All of it as uint8[height, width, channels], for numpy.asarray."""
        return np.asarray(self.pixels()[0], dtype)

    def _open(self) -> Any:
        from PIL import Image

        return Image.open(io.BytesIO(self._data), formats=FORMATS)

    def _fault(self, error: Exception) -> TransformError:
        said = str(error) or type(error).__name__
        if "cannot identify image file" in said:
            said = f"no format that is read ({', '.join(FORMATS)})"
        return TransformError(f"field {self._field!r} is not an image that can be decoded: {said}")

    def pixels(self, reduce: float = 1.0) -> tuple[Any, float, float, float]:
        """Decode: (image, scale, left, top).

        A point (x, y) of the picture is at (left + x / scale, top + y / scale) of the image. The
        scale is 2, 4 or 8, never above reduce, where the decoder can give that for less work
        (JPEG), else 1.
        """
        # An image that has been decoded once can't be decoded at another size.
        image, self._image, scale = self._image or self._open(), None, 1
        if image.format in ("JPEG", "MPO"):
            stored = image.size
            whole = next(s for s in (8, 4, 2, 1) if s <= reduce or s == 1)
            # It also has the decoder give grey, if that is asked for.
            wanted = (max(1, stored[0] // whole), max(1, stored[1] // whole))
            if image.draft(self._mode, wanted) is not None and image.size != stored:
                scale = whole
        try:
            image.load()
            image = _converted(image, self._mode)
        except TransformError:
            raise
        except Exception as error:
            raise self._fault(error) from None
        if self._turn is None:
            return image, scale, 0.0, 0.0
        method, mirrors_x, mirrors_y = self._turn
        image = image.transpose(method)
        # The decoder rounds the size up at the right and the bottom, which may be elsewhere now.
        left = image.width - self.size[0] / scale if mirrors_x else 0.0
        top = image.height - self.size[1] / scale if mirrors_y else 0.0
        return image, scale, left, top


def _orientation(image: Any) -> int:
    if image.format in ("JPEG", "MPO") and "exif" not in image.info:
        return 1  # getexif would search elsewhere, for nothing
    return int(image.getexif().get(_ORIENTATION, 1) or 1)


def _converted(image: Any, mode: str) -> Any:
    """The image in a mode, whatever it was stored in."""
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16 bits in Pillow's several ways
        from PIL import Image

        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise TransformError("an image of floating-point pixels has no range that 8 bits stand for")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may have transparency of its own
    return image if image.mode == mode else image.convert(mode)


def opened(sample: Sample, field: str) -> Any:
    """A field as a Pillow image, at its full size.

    Raises:
        TransformError: the field is missing or no picture.
    """
    value = value_of(sample, field)
    if isinstance(value, Picture):
        return value.pixels()[0]
    return _as_image(value, field)


def _as_image(value: Any, field: str) -> Any:
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray):
        grey, colour = value.ndim == 2, value.ndim == 3 and value.shape[2] in (3, 4)
        if value.dtype == np.uint8 and value.size and (grey or colour):
            return Image.fromarray(np.ascontiguousarray(value))
        raise TransformError(
            f"field {field!r} is {value.dtype}{list(value.shape)}, not a picture: these are "
            "uint8[height, width] or uint8[height, width, 3 or 4]"
        )
    hint = ": put Decode before" if isinstance(value, bytes) else ""
    raise TransformError(f"field {field!r} is {type(value).__name__}, not a picture{hint}")


def size_in(sample: Sample, field: str) -> tuple[int, int]:
    """(width, height) of the picture in a field, which is not decoded for it."""
    value = value_of(sample, field)
    size = value.size if isinstance(value, Picture) else _as_image(value, field).size
    return int(size[0]), int(size[1])


def resized(
    sample: Sample, field: str, box: Box, size: tuple[int, int], interpolation: str, reduce: bool
) -> Any:
    """The part of a picture in box (pixels of it), as an image of size (height, width)."""
    height, width = size
    value = value_of(sample, field)
    scale, left, top = 1.0, 0.0, 0.0
    if isinstance(value, Picture):
        most = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
        image, scale, left, top = value.pixels(most if reduce else 1.0)
    else:
        image = _as_image(value, field)
    method = INTERPOLATIONS[interpolation]
    if scale == 1:
        # First the crop: a filter then sees no pixel outside of it.
        if box != (0, 0, image.width, image.height):
            image = image.crop(box)
        return image.resize((width, height), method, reducing_gap=2.0 if reduce else None)
    part = (
        left + box[0] / scale, top + box[1] / scale,
        min(left + box[2] / scale, image.width), min(top + box[3] / scale, image.height),
    )  # fmt: skip
    return image.resize((width, height), method, box=part, reducing_gap=2.0)


def finished(value: Any) -> Any:
    """What leaves a chain: of a picture its array, of anything else itself."""
    if not isinstance(value, Picture) and not type(value).__module__.startswith("PIL."):
        return value
    return np.asarray(value)


def check_interpolation(name: str) -> None:
    """Refuse what Pillow has no filter of."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {name!r}")
