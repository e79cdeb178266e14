"""Recipes, preprocessing, pipeline, fitting, calibration, detector, model file and export."""
