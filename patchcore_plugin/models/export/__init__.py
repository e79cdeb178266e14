"""Fitted models and backbones as ONNX files."""
