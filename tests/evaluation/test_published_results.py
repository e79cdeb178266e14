"""Results published in papers."""

from __future__ import annotations

import re

from patchcore_plugin.evaluation.published_results import load_published_results


def test_published_results_are_complete_and_plausible() -> None:
    for result in load_published_results():
        values = [value for value in (result.image_auroc, result.pixel_auroc, result.aupro) if value is not None]
        assert values
        assert all(0.5 < value < 1 for value in values)
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}", result.source)
        assert result.to_json()["method"] == result.method
