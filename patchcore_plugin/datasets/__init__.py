"""Find photos in files, folders and lists, and read the data sets that people have, each by its own layout."""

from .files import PHOTO_SUFFIXES, find_photos
from .loading import load_categories, load_category, training_photos
from .records import Category, TestPhoto

__all__ = [
    "PHOTO_SUFFIXES",
    "Category",
    "TestPhoto",
    "find_photos",
    "load_categories",
    "load_category",
    "training_photos",
]
