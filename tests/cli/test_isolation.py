"""Evaluation in a separate process: how its death is reported."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from patchcore_plugin.cli.isolation import Job, run_isolated
from patchcore_plugin.cli.options import DetectorOptions, PluginFilter
from patchcore_plugin.data.datasets import load_category
from patchcore_plugin.errors import PatchcoreError
from tests.plugins.fake_plugins import Install

DYING = """
    import os
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        signal: int = 0

        def __post_init__(self):
            if self.signal:
                os.kill(os.getpid(), self.signal)

    def create(config):
        scorer = pp.Host(entry_points=False).create("scorer", "knn")
        def fit(bank):
            raise RuntimeError("not enough\\nmemory")
        scorer.fit = fit
        return scorer

    @pp.hookimpl
    def patchcore_scorers():
        return [pp.ScorerSpec(name="dies", config=Config, create=create, summary="")]
"""


@pytest.mark.e2e
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "killed"),
        (0, r"RuntimeError: not enough$"),
    ],
)
def test_death_of_the_process_is_reported(
    number: int,
    reason: str,
    dataset: Path,
    tmp_path: Path,
    distribution: Install,
    capfd: pytest.CaptureFixture[str],
) -> None:
    distribution("dying", DYING)
    options = (f"scorer.signal={int(number)}", "preprocessing.size=64,64")
    detector_options = DetectorOptions(
        recipe="patchcore", backbone="efficientnet-lite0", scorer="dies", options=options, device="cpu"
    )
    job = Job(detector_options, PluginFilter(), "patchcore", load_category(dataset), tmp_path, "skip")
    with pytest.raises(PatchcoreError, match=reason):
        run_isolated(job, lambda stage, done, total: None)
    # An unexpected error is a bug, so its traceback is printed.
    assert ("memory" in capfd.readouterr().err) == (number == 0)
