"""Image-level and pixel-level metrics."""
