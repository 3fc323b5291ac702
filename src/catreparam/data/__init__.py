"""Data sets: found on the machine, or fetched once by `catreparam data NAME`. Imports validation alone."""

from catreparam.data.digits import DATASETS, ImageDataset, load_dataset
from catreparam.data.fetch import DamagedData, MissingData, cache_folder

__all__ = ["DATASETS", "DamagedData", "ImageDataset", "MissingData", "cache_folder", "load_dataset"]
