"""Tokenising: padded numbers of a user's tokenizer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shardstream import transforms as T

TEXTS = ["the quick brown fox jumps over the lazy dog"] * 20 + ["pack my box with jugs"] * 20


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def tokens(step: T.Tokenize, text: Any) -> dict[str, Any]:
    return T.Compose([step])({"__key__": "k", "txt": text})


def test_texts_are_cut_and_padded_to_one_length() -> None:
    chain = T.Compose([T.Tokenize("txt", letters, length=4, pad=-1)])
    batch = chain([{"__key__": t, "txt": t.encode()} for t in ("", "ab", "abcd", "abcdef")])
    assert batch["tokens"].dtype == np.int32
    assert batch["tokens"].tolist() == [
        [-1, -1, -1, -1], [97, 98, -1, -1], [97, 98, 99, 100], [97, 98, 99, 100],
    ]  # fmt: skip
    assert batch["tokens_mask"].dtype == np.bool_
    assert batch["tokens_mask"].sum(axis=1).tolist() == [0, 2, 4, 4]
    assert set(batch) == {"__key__", "tokens", "tokens_mask"}


def test_without_a_length_rows_are_as_long_as_they_are() -> None:
    made = tokens(T.Tokenize("txt", letters, to="ids", length=None), "häh")
    assert made["ids"].tolist() == [104, 228, 104]
    assert made["ids"].dtype == np.int32
    assert "ids_mask" not in made


@pytest.mark.parametrize(
    ("tokenizer", "text", "said"),
    [
        (letters, b"\xff", "field 'txt' is not UTF-8"),
        (letters, 3, "field 'txt' is int, not text"),
        (letters, "abcdef", "field 'txt' has 6 tokens, more than 5"),
        (str.split, "a b", "the tokenizer returned <U1"),
        (lambda text: [[1]], "a", r"the tokenizer returned int64\[1, 1\]"),
        (lambda text: [2**40], "a", "a token is beyond 32 bits"),
    ],
)
def test_errors_name_the_field(tokenizer: Any, text: Any, said: str) -> None:
    with pytest.raises(T.TransformError, match=f"^sample 'k': .*{said}"):
        tokens(T.Tokenize("txt", tokenizer, length=5, truncation=False), text)
    with pytest.raises(T.TransformError, match="there is no field 'other'"):
        tokens(T.Tokenize("other", letters), "a")


@pytest.mark.parametrize("tokenizer", [3, "vocabulary.txt", Path("x")])
def test_what_is_no_tokenizer(tokenizer: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"tokenizer\.json"):
        T.Tokenize("txt", tokenizer)


def test_a_tokenizer_of_tokenizers(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=300))
    want = made.encode(TEXTS[0]).ids
    made.enable_padding(length=100)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    for given in (made, tmp_path / "tokenizer.json", str(tmp_path / "tokenizer.json")):
        step = T.Tokenize("txt", given, length=None)
        assert tokens(step, TEXTS[0])["tokens"].tolist() == want
        assert T.Compose([step]).requirements == ("numpy", "tokenizers")
        assert len(repr(step)) < 200


def test_a_model_of_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=32, minloglevel=3
    )
    (tmp_path / "m.model").write_bytes(model.getvalue())
    loaded = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for given in (loaded, tmp_path / "m.model"):
        step = T.Tokenize("txt", given, length=None)
        assert tokens(step, TEXTS[0])["tokens"].tolist() == loaded.encode(TEXTS[0])
        assert T.Compose([step]).requirements == ("numpy", "sentencepiece")
