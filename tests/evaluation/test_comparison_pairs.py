"""One recipe on one category in a process of its own: what it says when it dies, and its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
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
            raise RuntimeError("no room\\nfor anything")
        scorer.fit = fit
        return scorer

    @pp.hookimpl
    def patchcore_scorers():
        return [pp.ScorerSpec(name="dies", config=Config, create=create, summary="")]
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, r"killed.*memory"),
        (0, r"RuntimeError: no room$"),
    ],
)
def test_a_pair_whose_process_dies(
    number: int,
    reason: str,
    dataset: Path,
    tmp_path: Path,
    distribution: Install,
    capfd: pytest.CaptureFixture[str],
) -> None:
    distribution("dying", DYING)
    options = (f"scorer.signal={int(number)}", "preprocessing.size=64,64")
    wanted = DetectorOptions(
        recipe="patchcore", backbone="efficientnet-lite0", scorer="dies", options=options, device="cpu"
    )
    asked = Job(wanted, PluginFilter(), "patchcore", load_category(dataset), tmp_path, "skip")
    with pytest.raises(PatchcoreError, match=reason):
        run_isolated(asked, lambda stage, done, total: None)
    # What is not foreseen is a bug, and its traceback is wanted.
    assert ("for anything" in capfd.readouterr().err) == (number == 0)


def test_peak_memory_is_that_of_the_process() -> None:
    ballast = np.ones(40_000_000)
    program = """if True:
        from patchcore_plugin.evaluation.peak_memory import peak_gpu_memory, peak_memory
        before = peak_memory()
        block = bytearray(300 << 20)
        after = peak_memory()
        del block
        print(before, after, peak_memory(), peak_gpu_memory())
    """
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    before, after, later, gpu = done.stdout.split()
    # This process is larger than its child, whose peak must not start there.
    assert int(before) < ballast.nbytes
    assert int(after) >= 300 << 20
    # It does not fall; the kernel counts in batches of pages.
    assert int(later) >= int(after) - (1 << 20)
    assert gpu == "None"
