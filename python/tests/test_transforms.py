"""Ready transforms as plain functions: what they make, and that they make it again."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import FORMAT_OF, decoded, encode, picture, smooth
from PIL import Image, ImageOps
from shardstream import transforms as T

MODES = sorted(FORMAT_OF)
PHOTO = picture(321, 247)
ANY: Any = T  # for what the types refuse already
AUGMENT = T.Compose(
    [
        T.Decode("jpg"),
        T.RandomResizedCrop(24),
        T.RandomHorizontalFlip(),
        T.RandomVerticalFlip(0.3),
        T.RandomRotation(20, "bilinear"),
        T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    ]
)


def sample(data: bytes, seed: int = 1, **fields: Any) -> dict[str, Any]:
    return {"__key__": f"k{seed}", "__seed__": seed, "jpg": data, **fields}


def image(*steps: Any, data: bytes = PHOTO, seed: int = 1) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = T.Compose([T.Decode("jpg"), *steps])(sample(data, seed))["image"]
    return made


# What holds for any picture.


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 2**64 - 1),
    reduce=st.booleans(),
)
def test_a_batch_of_n_is_n_batches_of_one_and_n_samples(
    sizes: list[tuple[int, int]], mode: str, seed: int, reduce: bool
) -> None:
    chain = T.Compose(
        [T.Decode("jpg"), T.RandomResizedCrop(17, reduce=reduce), *AUGMENT.transforms[2:]]
    )
    batch = [
        sample(picture(w, h, mode, i), (seed + i) % 2**64, cls=i) for i, (w, h) in enumerate(sizes)
    ]
    whole = chain(batch)
    assert whole["image"].shape == (len(batch), 17, 17, 3)
    assert whole["image"].dtype == np.uint8
    assert whole["cls"] == list(range(len(batch)))
    assert whole["__key__"] == [s["__key__"] for s in batch]
    assert "__seed__" not in whole
    random.seed(0)  # nothing is drawn from what everybody draws from
    np.random.seed(0)
    for i, one in enumerate(batch):
        assert chain([one])["image"].tobytes() == whole["image"][i].tobytes()
        assert chain(one)["image"].tobytes() == whole["image"][i].tobytes()
    backwards = chain(batch[::-1])["image"][::-1]
    assert backwards.tobytes() == whole["image"].tobytes()
    assert random.random() == random.Random(0).random()
    assert np.random.rand() == np.random.RandomState(0).rand()


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    mode=st.sampled_from(MODES),
    wanted=st.sampled_from(["RGB", "L", "RGBA"]),
)
def test_decoding_any_mode(width: int, height: int, mode: str, wanted: Any) -> None:
    data = picture(width, height, mode)
    made = T.Compose([T.Decode("jpg", mode=wanted)])(sample(data))["image"]
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[wanted]
    assert made.shape == (height, width, *channels) and made.dtype == np.uint8
    # All modes show the one picture, more or less (a palette of it, less).
    grey = np.asarray(Image.fromarray(made).convert("L")).astype(int)
    truth = np.asarray(Image.fromarray(smooth(width, height)).convert("L")).astype(int)
    if mode != "1":
        assert np.abs(grey - truth).mean() < 20


def test_seed_and_place_in_the_chain_decide() -> None:
    flips = [T.RandomHorizontalFlip(), T.RandomVerticalFlip()]
    assert (
        image(*AUGMENT.transforms[1:], seed=5).tobytes()
        == image(*AUGMENT.transforms[1:], seed=5).tobytes()
    )
    assert (
        image(*AUGMENT.transforms[1:], seed=5).tobytes()
        != image(*AUGMENT.transforms[1:], seed=6).tobytes()
    )
    both = {(a, b) for s in range(64) for a, b in [[T.Draws(s, i).chance(0.5) for i in (1, 2)]]}
    assert both == {(False, False), (False, True), (True, False), (True, True)}
    assert len({image(*flips, seed=s).tobytes() for s in range(64)}) == 4


def test_the_numbers_drawn_are_these_for_ever() -> None:
    draws = T.Draws(42, 3)
    assert [draws.bits() for _ in range(3)] == [
        8086729824088638299,
        12564579766887402105,
        6629851024481622422,
    ]


def test_every_public_name_is_exported() -> None:
    assert sorted(T.__all__) == list(T.__all__)
    assert all(hasattr(T, name) for name in T.__all__)


def test_draws_are_even() -> None:
    draws = T.Draws(1)
    values = [draws.uniform(2, 4) for _ in range(20000)]
    assert 2 <= min(values) < 2.001 and 3.999 < max(values) < 4
    assert np.histogram(values, 10)[0] == pytest.approx(2000, rel=0.1)
    assert np.bincount([draws.integer(5) for _ in range(20000)]) == pytest.approx(4000, rel=0.1)
    orders = [tuple(draws.shuffled("abc")) for _ in range(6000)]
    assert [orders.count(o) for o in sorted(set(orders))] == pytest.approx([1000] * 6, rel=0.15)


# Cropping.


def reference(width: int, height: int, size: int, seed: int) -> tuple[int, int, int, int]:
    """torchvision's definition, word for word, of the numbers that are drawn here."""
    draws, area = T.Draws(seed, 1), width * height
    for _ in range(10):
        target = area * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        w = round(math.sqrt(target * ratio))
        h = round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = draws.integer(height - h + 1)
            left = draws.integer(width - w + 1)
            return left, top, w, h
    ratio = width / height
    w = round(height * 4 / 3) if ratio > 4 / 3 else width
    h = round(width / (3 / 4)) if ratio < 3 / 4 else height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize(("width", "height"), [(321, 247), (90, 300), (3, 400), (500, 2), (1, 1)])
def test_a_random_resized_crop_is_the_resize_of_its_part(width: int, height: int) -> None:
    data = picture(width, height)
    for seed in range(20):
        left, top, w, h = reference(width, height, 24, seed)
        want = decoded(data).crop((left, top, left + w, top + h)).resize((24, 24), 2)
        got = image(T.RandomResizedCrop(24, reduce=False), data=data, seed=seed)
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize(("size", "shape"), [(32, (32, 32, 3)), ((40, 56), (40, 56, 3))])
def test_reducing_changes_little(size: Any, shape: tuple[int, ...]) -> None:
    data = picture(1201, 903, quality=95)
    for seed in range(12):
        exact, fast = (
            image(T.RandomResizedCrop(size, reduce=reduce), data=data, seed=seed).astype(int)
            for reduce in (False, True)
        )
        assert exact.shape == fast.shape == shape
        assert np.abs(exact - fast).mean() < 1.5


def test_reducing_takes_the_same_part_of_turned_pictures() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(smooth(803, 601)), "JPEG", exif=exif, quality=95)
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert turned is not None
        for seed in range(4):
            decode = T.Decode("jpg", apply_exif_orientation=True)
            exact, fast = (
                T.Compose([decode, T.RandomResizedCrop(48, reduce=r)])(sample(data, seed))["image"]
                for r in (False, True)
            )
            left, top, w, h = reference(*turned.size, 48, seed)
            want = turned.crop((left, top, left + w, top + h)).resize((48, 48), 2)
            assert exact.tobytes() == want.tobytes()
            assert np.abs(exact.astype(int) - fast).mean() < 1.5
        assert T.Compose([decode])(sample(data))["image"].tobytes() == turned.tobytes()
        assert image(data=data).shape == (601, 803, 3)  # as stored, unless asked for


def test_as_torchvision() -> None:
    tv = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    torch = pytest.importorskip("torch")
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    photo = decoded(PHOTO)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(photo, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(3000)]
    )[:, [1, 0, 3, 2]]
    crop = T.RandomResizedCrop(24)
    ours = np.array([crop.part(*photo.size, T.Draws(seed)) for seed in range(3000)])
    for a, b in zip(theirs.T, ours.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 0.001
    assert stats.ks_2samp(theirs[:, 2] / theirs[:, 3], ours[:, 2] / ours[:, 3]).pvalue > 0.001
    pairs = [
        (tv.Resize(50), T.Resize(50, reduce=False)),
        (tv.Resize((31, 77)), T.Resize((31, 77), reduce=False)),
        (tv.CenterCrop(101), T.CenterCrop(101)),
        (tv.CenterCrop((400, 300)), T.CenterCrop((400, 300))),
        (tv.RandomHorizontalFlip(1), T.RandomHorizontalFlip(1)),
        (tv.RandomVerticalFlip(1), T.RandomVerticalFlip(1)),
        (tv.RandomRotation((30, 30), fill=9), T.RandomRotation((30, 30), fill=9)),
        (tv.ColorJitter((1.5, 1.5)), T.ColorJitter((1.5, 1.5))),
        (tv.ColorJitter(0, (0.5, 0.5)), T.ColorJitter(0, (0.5, 0.5))),
        (tv.ColorJitter(0, 0, (2, 2)), T.ColorJitter(0, 0, (2, 2))),
        (tv.ColorJitter(0, 0, 0, (0.2, 0.2)), T.ColorJitter(0, 0, 0, (0.2, 0.2))),
    ]
    for their, our in pairs:
        assert image(our).tobytes() == np.asarray(their(photo)).tobytes(), our
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    want = tv.Normalize(mean, std)(tv.ToTensor()(photo)).permute(1, 2, 0).numpy()
    assert np.allclose(image(T.Normalize(mean, std)), want, atol=1e-5)


# The other steps.


def test_resize_keeps_the_ratio_of_one_number() -> None:
    for (w, h), (rows, columns) in {
        (321, 247): (50, 64),
        (100, 300): (150, 50),
        (9, 9): (50, 50),
    }.items():
        assert image(T.Resize(50), data=picture(w, h)).shape == (rows, columns, 3)
    assert image(T.Resize((20, 30))).shape == (20, 30, 3)


def test_normalize() -> None:
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    want = (np.asarray(decoded(PHOTO)).astype(np.float32) / 255 - mean) / std
    made = image(T.Normalize(mean, std))
    assert made.dtype == np.float32
    assert np.allclose(made, want, atol=1e-5)
    assert image(T.Normalize(mean, std, dtype="float16")).dtype == np.float16
    grey = T.Compose([T.Decode("jpg", mode="L"), T.Normalize([0], [1])])(sample(PHOTO))["image"]
    assert grey.shape == (247, 321, 1)


def test_a_function_of_ones_own_gets_arrays_and_seeded_generators() -> None:
    def noisy(sample: dict[str, Any]) -> dict[str, Any]:
        assert sample["image"].dtype == np.uint8
        return {"image": sample["image"][:2, :2], "noise": random.random() + np.random.rand()}

    chain = T.Compose([T.Decode("jpg"), noisy, T.RandomHorizontalFlip()])
    batch = [sample(PHOTO, seed) for seed in (1, 2, 3)]
    whole = chain(batch)
    assert whole["noise"] == [chain(one)["noise"] for one in batch]
    assert len(set(whole["noise"])) == 3
    assert set(whole) == {"image", "noise"}


@dataclass(frozen=True)
class Both(T.Transform):
    """Keeps what it is given, and its negative."""

    def apply(self, sample: dict[str, Any], draws: T.Draws) -> None:
        sample["kept"] = sample["image"]
        sample["negative"] = 255 - np.asarray(sample["image"])


def test_a_transform_of_ones_own_may_keep_the_picture() -> None:
    steps = [T.Decode("jpg"), Both(), T.Resize(20)]
    made = T.Compose(steps)(sample(picture(400, 300)))
    whole = image(data=picture(400, 300))
    assert made["kept"].tobytes() == whole.tobytes()
    assert made["negative"].tobytes() == (255 - whole).tobytes()
    assert made["image"].tobytes() == image(T.Resize(20), data=picture(400, 300)).tobytes()


def test_several_pictures_in_one_jpeg() -> None:
    first, second = Image.fromarray(smooth(300, 200)), Image.fromarray(smooth(300, 200, 1))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    for step in (T.Resize(20, reduce=False), T.Resize(20), T.CenterCrop(50)):
        assert image(step, data=data).tobytes() == image(step, data=encode(first)).tobytes()


def test_columns_of_different_shapes_are_lists() -> None:
    batch = [sample(picture(w, 5), w) for w in (7, 7, 9)]
    column = T.Compose([T.Decode("jpg")])(batch)["image"]
    assert [row.shape for row in column] == [(5, 7, 3), (5, 7, 3), (5, 9, 3)]
    assert [row.tobytes() for row in column] == [image(data=one["jpg"]).tobytes() for one in batch]
    first, second, third = sample(PHOTO, 1, x=np.ones(2)), sample(PHOTO, 2), sample(PHOTO, 3, x=2)
    made = T.Compose([T.Decode("jpg")])([first, second, third])
    assert made["x"][0].tolist() == [1, 1] and made["x"][1:] == [None, 2]
    assert T.Compose([T.Decode("jpg")])([first, second])["x"][1] is None


# What goes wrong.


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"png": b""}, "there is no field 'jpg'; its fields are 'png'"),
        ({}, "its fields are none"),
        ({"jpg": "text"}, "field 'jpg' is str, not an image file"),
        ({"jpg": b"not one"}, "field 'jpg' is not an image that can be decoded: no format"),
        ({"jpg": PHOTO[:-200]}, "field 'jpg' is not an image that can be decoded: .*truncated"),
        ({"jpg": PHOTO[:40]}, "field 'jpg' is not an image that can be decoded"),
        ({"jpg": encode(Image.new("1", (9000, 9000)), "PNG")}, "9000 x 9000 pixels; at most"),
        ({"jpg": encode(Image.new("F", (9, 9)), "TIFF")}, "floating-point"),
    ],
)
def test_a_bad_image_is_an_error_that_names_sample_and_field(fields: Any, said: str) -> None:
    with pytest.raises(T.TransformError, match=f"^sample 'bad': .*{said}"):
        T.Compose([T.Decode("jpg"), T.CenterCrop(2)])([{"__key__": "bad", **fields}])
    with pytest.raises(T.TransformError, match=f"^sample 'bad': .*{said}"):
        T.Compose([T.Decode("jpg")])({"__key__": "bad", **fields})


def test_a_png_cut_anywhere_is_an_error_or_whole() -> None:
    data = picture(31, 17, "RGBA")
    whole = image(data=data).tobytes()
    for end in range(len(data)):
        try:
            assert image(data=data[:end]).tobytes() == whole
        except T.TransformError:
            continue


@pytest.mark.parametrize(
    ("step", "value", "said"),
    [
        (T.CenterCrop(2), b"x", "field 'image' is bytes, not a picture: put Decode before"),
        (T.Resize(2), np.ones((3, 3)), r"field 'image' is float64\[3, 3\], not a picture"),
        (T.RandomResizedCrop(2), None, "field 'image' is NoneType"),
        (T.Normalize((0, 0, 0), (1, 1, 1)), np.ones((3, 3), np.uint8), "has 1 channels"),
    ],
)
def test_what_is_no_picture(step: Any, value: Any, said: str) -> None:
    with pytest.raises(T.TransformError, match=said):
        T.Compose([step])({"__key__": "k", "image": value})


def test_errors_of_ones_own_function_name_the_sample() -> None:
    def broken(sample: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("too dark")

    with pytest.raises(T.TransformError, match=r"^sample 'k1': RuntimeError: too dark"):
        T.Compose([broken])([sample(PHOTO)])
    with pytest.raises(T.TransformError, match="print returned NoneType; a step returns"):
        T.Compose([print])([sample(b"")])
    with pytest.raises(TypeError, match='level="sample" or level="batch"'):
        T.Compose([broken])(b"data")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ANY.Compose([]),
        lambda: ANY.Compose([ANY.Decode]),
        lambda: ANY.Compose([ANY.Compose([ANY.Decode()])]),
        lambda: ANY.Compose([3]),
        lambda: ANY.Decode(""),
        lambda: ANY.Decode(mode="CMYK"),
        lambda: ANY.RandomResizedCrop(0),
        lambda: ANY.RandomResizedCrop((1, 2, 3)),
        lambda: ANY.RandomResizedCrop(True),
        lambda: ANY.RandomResizedCrop(9, scale=(1, 0.5)),
        lambda: ANY.RandomResizedCrop(9, ratio=(0, 1)),
        lambda: ANY.RandomResizedCrop(9, interpolation="cubic"),
        lambda: ANY.Resize("9"),
        lambda: ANY.CenterCrop(1.5),
        lambda: ANY.RandomHorizontalFlip(2),
        lambda: ANY.RandomVerticalFlip("1"),
        lambda: ANY.RandomRotation(-3),
        lambda: ANY.RandomRotation(3, "lanczos"),
        lambda: ANY.ColorJitter(-1),
        lambda: ANY.ColorJitter(hue=0.6),
        lambda: ANY.ColorJitter(contrast=(2, 1)),
        lambda: ANY.Normalize((0,), (1, 1)),
        lambda: ANY.Normalize((0,), (0,)),
        lambda: ANY.Normalize((0,), (1,), dtype="int8"),
        lambda: ANY.Normalize(0.5, 0.5),
        lambda: ANY.Compose(3),
        lambda: ANY.Decode(3),
        lambda: ANY.Resize(None),
    ],
)
def test_arguments_are_checked_where_they_are_given(make: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert "object" not in str(caught.value), "an accident of Python's, not a check"
