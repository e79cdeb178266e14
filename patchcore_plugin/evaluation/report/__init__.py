"""HTML reports of evaluations and comparisons."""
