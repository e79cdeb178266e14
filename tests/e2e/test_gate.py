"""The speed-up of every fast kernel; and that the gate and the comparison of commits report slow ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from benchmarks import compare, gate

pytestmark = pytest.mark.slow


def test_no_kernel_has_become_slow(capfd: pytest.CaptureFixture[str]) -> None:
    assert gate.main([]) == 0, capfd.readouterr().out


def test_a_kernel_replaced_by_its_reference_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    slow, fast = "embedding, torch", "nearest, torch"
    assert gate.main(["--only", slow, "--only", fast, "--replace", slow]) == 1
    out = capfd.readouterr().out
    complaints = re.findall(r"^(.+): (\S+) x as fast as its reference", out, re.MULTILINE)
    assert [name for name, _ in complaints] == [slow]
    assert 0.5 < float(complaints[0][1]) < 2


def test_kernels_that_are_not_installed_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "patchcore_native.py").write_text("raise ImportError", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gate.main(["--only", gate.KERNELS[1]]) == 0
    assert re.search(r"skipped: patchcore-native", capfd.readouterr().out)


class FakeMeasurement:
    """Ratios one after the other; the last one repeatedly."""

    def __init__(self, *ratios: float) -> None:
        self.ratios, self.calls = list(ratios), 0

    def __call__(self, names: Collection[str]) -> Mapping[str, float]:
        ratio = self.ratios[min(self.calls, len(self.ratios) - 1)]
        self.calls += 1
        return dict.fromkeys(names, ratio)


def test_a_disturbed_measurement_is_repeated() -> None:
    measure = FakeMeasurement(4.9, 4.9, 5.1)
    assert gate.check(["kernel"], {"kernel": 10.0}, measure) == []
    assert measure.calls == 3


def test_a_slow_kernel_is_measured_three_times() -> None:
    measure = FakeMeasurement(4.9)
    (line,) = gate.check(["kernel"], {"kernel": 10.0}, measure)
    assert "4.9 x" in line
    assert "10.0 x" in line
    assert measure.calls == 3


def test_a_kernel_without_a_baseline_is_reported() -> None:
    (line,) = gate.check(["new"], {"kernel": 10.0}, FakeMeasurement(100.0))
    assert "not in baseline.json" in line


def test_a_commit_is_slower_by_the_median_and_by_the_shortest_time() -> None:
    assert compare.is_slower(then=[1.0, 1.0, 1.1], now=[1.2, 1.2, 1.3])
    assert not compare.is_slower(then=[1.0, 1.0, 1.1], now=[1.0, 1.2, 1.3])  # disturbed: as fast as before, once
    assert not compare.is_slower(then=[1.0, 1.2, 1.3], now=[1.2, 1.2, 1.3])  # as slow as now before, except once
    assert not compare.is_slower(then=[], now=[1.0])  # the commit lacks the kernel
