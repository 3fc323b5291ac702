"""Reads IDX files, the format of MNIST and its relatives, plain or gzipped."""

import gzip
import math
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

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
