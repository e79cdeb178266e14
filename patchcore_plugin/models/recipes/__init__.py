"""Recipes, and the TOML files of the built-in ones."""

from .member import Choice, MemberRecipe
from .recipe import Recipe
from .tables import Map, Preprocessing

__all__ = ["Choice", "Map", "MemberRecipe", "Preprocessing", "Recipe"]
