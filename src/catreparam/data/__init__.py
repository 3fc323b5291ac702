"""Data sets: found on the machine, or fetched once by `catreparam data NAME`. Imports validation alone."""

from catreparam.data.cache import DamagedData, MissingData, cache_folder
from catreparam.data.digits import DATASETS, ImageDataset, load_dataset

__all__ = ["DATASETS", "DamagedData", "ImageDataset", "MissingData", "cache_folder", "load_dataset"]
