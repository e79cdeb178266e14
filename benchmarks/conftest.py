"""The option that adds the full set of benchmarks, what times a case, and the table of ratios."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks._measure import keep_grid, write_tables
from benchmarks.gate import REFERENCE, Case, Result, missing, using

Timed = Callable[[Case, str, str, int], Result]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --full."""
    parser.addoption("--full", action="store_true", help="also run the benchmarks that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "full: a benchmark that takes minutes or gigabytes; runs with --full only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --full would add."""
    if config.getoption("--full", default=False):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture
def timed(benchmark: BenchmarkFixture) -> Timed:
    """Compute a case in a way, so many times, as part of a group, and return the result."""

    def run(case: Case, way: str, group: str, rounds: int) -> Result:
        if reason := missing(way):
            pytest.skip(reason)
        benchmark.group = f"{case.kernel}, {group}"
        benchmark.extra_info["way"] = way
        with using(way):
            result: Result = benchmark.pedantic(case.ready(way), rounds=rounds)
        return result

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print, of what was timed, how many times faster each way is than the reference of its group, or than torch."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    session: Any = getattr(config, "_benchmarksession", None)
    for each in session.benchmarks if session is not None else ():
        if each.stats and "way" in each.extra_info:
            groups[each.group][each.extra_info["way"]] = each.stats.median
    if not groups:
        return
    terminalreporter.section("ratios")
    for group, medians in groups.items():
        base = next((way for way in (REFERENCE, "torch") if way in medians), None)
        terminalreporter.line(group)
        for way, median in medians.items():
            ratio = "" if base in (None, way) else f"{medians[base] / median:10.1f} x {base}"
            terminalreporter.line(f"    {way:<26}{median:12.4f} s{ratio}")
    if config.getoption("--full"):
        keep_grid(groups)
        write_tables()
