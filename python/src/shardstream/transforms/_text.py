"""Text as numbers, by a tokenizer of the user's."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ._draws import Draws
from ._transform import Sample, Transform, TransformError, value_of

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer's own file, packed so that it travels inside of a definition.

    Args:
        package: that reads it: "tokenizers" or "sentencepiece".
        packed: the file, zlib in base64.
    """

    package: str
    packed: str

    def __repr__(self) -> str:
        """Say what it is, not all of it."""
        return f"TokenizerFile({self.package!r}, {len(self.packed)} characters)"

    @classmethod
    def of(cls, package: str, content: bytes) -> TokenizerFile:
        """Pack a file's content."""
        return cls(package, base64.b85encode(zlib.compress(content, 9)).decode())

    def encoder(self) -> Encode:
        """Load it, with the package that it is of."""
        content = zlib.decompress(base64.b85decode(self.packed))
        if self.package == "tokenizers":
            from tokenizers import Tokenizer

            loaded = Tokenizer.from_str(content.decode())
            loaded.no_padding()
            loaded.no_truncation()
            return lambda text: loaded.encode(text).ids
        from sentencepiece import SentencePieceProcessor

        encode: Encode = SentencePieceProcessor(model_proto=content).encode
        return encode


@dataclass(frozen=True)
class Tokenize(Transform):
    """Makes numbers of a field's UTF-8 text, cut and padded to one length.

    It adds int32[length] as `to`, and bool[length] as `to` + "_mask", which is True where there is
    text and not padding. With length=None it adds int32[n] only. The text's field is removed.

    Args:
        field: of the text.
        tokenizer: a function of a str that returns whole numbers, which is deployed as text; a
            path to a `tokenizer.json` (package tokenizers) or a `.model` (sentencepiece), or such
            a tokenizer itself: these are packed into the definition, which may have 1 MiB.
        to: the name of the numbers' field.
        length: of the result.
        pad: what stands behind shorter texts.
        truncation: cut longer texts; False makes them an error.
    """

    field: str
    tokenizer: Any
    to: str = "tokens"
    length: int | None = 512
    pad: int = 0
    truncation: bool = True

    def __post_init__(self) -> None:
        """Check the arguments, and pack the tokenizer."""
        if self.length is not None and (type(self.length) is not int or self.length < 1):
            raise ValueError(f"length is a whole number of 1 or more, or None, not {self.length!r}")
        object.__setattr__(self, "tokenizer", _portable(self.tokenizer))

    @property
    def requirements(self) -> tuple[str, ...]:  # type: ignore[override]
        """Numpy, and the package of the tokenizer."""
        if isinstance(self.tokenizer, TokenizerFile):
            return ("numpy", self.tokenizer.package)
        return ("numpy",)

    @cached_property
    def _encode(self) -> Encode:
        if isinstance(self.tokenizer, TokenizerFile):
            return self.tokenizer.encoder()
        encode: Encode = self.tokenizer
        return encode

    def load(self) -> None:
        """Unpack the tokenizer."""
        _ = self._encode

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Put the numbers in the place of the text."""
        text = _text(value_of(sample, self.field), self.field)
        tokens = np.asarray(self._encode(text))
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise TransformError(
                f"field {self.field!r}: the tokenizer returned {tokens.dtype}{list(tokens.shape)}, "
                "not a sequence of whole numbers"
            )
        if tokens.size and not -(2**31) <= int(tokens.min()) <= int(tokens.max()) < 2**31:
            raise TransformError(f"field {self.field!r}: a token is beyond 32 bits")
        del sample[self.field]
        if self.length is None:
            sample[self.to] = tokens.astype(np.int32)
            return
        if len(tokens) > self.length and not self.truncation:
            raise TransformError(
                f"field {self.field!r} has {len(tokens)} tokens, more than {self.length}"
            )
        kept = tokens[: self.length]
        made = np.full(self.length, self.pad, np.int32)
        made[: len(kept)] = kept
        sample[self.to] = made
        sample[f"{self.to}_mask"] = np.arange(self.length) < len(kept)


def _text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TransformError(f"field {field!r} is {type(value).__name__}, not text")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise TransformError(f"field {field!r} is not UTF-8: {error}") from error


def _portable(tokenizer: Any) -> Any:
    """What can travel: a function, or the file that a tokenizer is."""
    if isinstance(tokenizer, TokenizerFile):
        return tokenizer
    if isinstance(tokenizer, (str, Path)):
        path = Path(tokenizer)
        package = {".json": "tokenizers", ".model": "sentencepiece"}.get(path.suffix)
        if package is None:
            raise ValueError(
                f"{str(path)!r} is no tokenizer.json (tokenizers) or .model (sentencepiece)"
            )
        return TokenizerFile.of(package, path.read_bytes())
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of transformers' fast ones
    if hasattr(inner, "to_str") and hasattr(inner, "encode"):
        return TokenizerFile.of("tokenizers", inner.to_str().encode())
    if hasattr(tokenizer, "serialized_model_proto"):
        return TokenizerFile.of("sentencepiece", tokenizer.serialized_model_proto())
    if not callable(tokenizer):
        raise TypeError(
            "tokenizer is a function, a path to a tokenizer.json or .model, or a tokenizer of "
            f"tokenizers or sentencepiece, not {type(tokenizer).__name__}"
        )
    return tokenizer
