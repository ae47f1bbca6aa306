"""Ready transforms: decoding and augmenting images, tokenising text, beside the disks.

>>> from shardstream import transforms as T
>>> augment = T.Compose([T.Decode("jpg"), T.RandomResizedCrop(224), T.RandomHorizontalFlip()])
>>> client.etl.create("augment", function=augment, level="batch")

A `Compose` is deployed as any function is. It travels as text together with this package's own
source, so that workers need numpy and Pillow but not shardstream, and an upgrade of the cluster
changes no pixel of a definition that is in use.

Names, arguments, defaults and distributions are torchvision's. What is drawn depends on the
sample's seed (a function of the dataset's seed, the epoch and the sample) and on the transform's
place in the chain, on nothing else: not on the worker, the batch or what was drawn before.
"""

from ._colour import ColorJitter, Normalize
from ._compose import Compose
from ._draws import Draws
from ._geometry import (
    CenterCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from ._image import Decode
from ._text import Tokenize, TokenizerFile
from ._transform import Transform, TransformError

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "Decode",
    "Draws",
    "Normalize",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "Tokenize",
    "TokenizerFile",
    "Transform",
    "TransformError",
]
