"""Find images in files, folders and lists, and read the data sets that people have, each by its own layout."""

from .files import IMAGE_SUFFIXES, find_images
from .loading import load_categories, load_category, training_images
from .types import Category, TestImage

__all__ = [
    "IMAGE_SUFFIXES",
    "Category",
    "TestImage",
    "find_images",
    "load_categories",
    "load_category",
    "training_images",
]
