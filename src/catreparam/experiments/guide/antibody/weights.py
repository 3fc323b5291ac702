"""AntiBERTy's weights: taken out of its wheel once, then read from the cache folder."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import torch

from catreparam.data.fetch import MissingData, cache_folder, check_sha256, keep_zip_member, scratch_folder, take_wheel
from catreparam.extras import install
from catreparam.models.antiberty import AntiBERTy, convert_antiberty, load_antiberty
from catreparam.report import write_atomically

WHEEL = "antiberty==0.1.3"
SHA256 = "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a"
MEMBER = "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin"
MEMBER_BYTES = 104_174_334


def weights_path() -> Path:
    """Where the weights are, once they are fetched."""
    return cache_folder() / "antiberty" / "antiberty.safetensors"


def fetch_antiberty(source: str | None = None) -> Path:
    """Fetches the wheel (97 MB; or takes the file or address `source`), keeps its weights, returns their path.

    Only the file of weights leaves the wheel; none of its code is installed or runs. Raises MissingData, DamagedData or
    CheckpointError, and leaves in the cache what was there before.
    """
    import safetensors.torch

    _check_transformers()
    with scratch_folder() as scratch:
        wheel = take_wheel(WHEEL, scratch, source=source)
        check_sha256(wheel, SHA256)
        member = scratch / "pytorch_model.bin"
        keep_zip_member(wheel, MEMBER, member, size=MEMBER_BYTES)
        content = safetensors.torch.save(convert_antiberty(member), {"source": f"{WHEEL} sha256 {SHA256}"})
    target = weights_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return target


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_prior(path: Path | str | None = None, precision: str = "float32") -> AntiBERTy:
    """The model of the weights in a file, by default in the cache folder, in one of PRECISIONS; read once a process.

    Raises MissingData naming the command that fetches them; CheckpointError for a damaged file.
    """
    _check_transformers()
    source = weights_path() if path is None else Path(path)
    if not source.is_file():
        said = "run `catreparam data antiberty` to fetch them" if path is None else "check the path"
        raise MissingData(f"there are no weights {source}: {said}")
    state = source.stat()
    return _load(source, precision, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _load(path: Path, precision: str, modified: int, size: int) -> AntiBERTy:
    return load_antiberty(path).to(PRECISIONS[precision])


def _check_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise MissingData(f"AntiBERTy needs transformers: {install('antibody')}")
