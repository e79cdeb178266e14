"""Recipes and the ones that are shipped."""
