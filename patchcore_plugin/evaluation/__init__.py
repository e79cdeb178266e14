"""Metrics, evaluation, comparison and reports."""
