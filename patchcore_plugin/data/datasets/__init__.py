"""Find images in files, folders and lists, and read data sets in the layouts in which they are published."""

from .files import IMAGE_SUFFIXES, find_images
from .loading import find_training_images, load_categories, load_category
from .types import Category, TestImage

__all__ = [
    "IMAGE_SUFFIXES",
    "Category",
    "TestImage",
    "find_images",
    "find_training_images",
    "load_categories",
    "load_category",
]
