"""The option --full, the fixture that times a case, and the table of speed-ups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks._measure import write_grid, write_tables
from benchmarks.gate import REFERENCE, Case, Result, missing, using

RunCase = Callable[[Case, str, str, int], Result]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --full."""
    parser.addoption("--full", action="store_true", help="also run the benchmarks that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `full`."""
    config.addinivalue_line("markers", "full: takes minutes or gigabytes; runs only with --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect benchmarks marked `full` unless --full is given."""
    if config.getoption("--full", default=False):
        return
    deselected = [item for item in items if item.get_closest_marker("full")]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture
def run_case(benchmark: BenchmarkFixture) -> RunCase:
    """Return a function that times a case in a way, as part of a group, for some rounds, and returns the result."""

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
    """Print the speed-up of each way over the reference of its group, or over torch if there is no reference."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    session: Any = getattr(config, "_benchmarksession", None)
    for case in session.benchmarks if session is not None else ():
        if case.stats and "way" in case.extra_info:
            groups[case.group][case.extra_info["way"]] = case.stats.median
    if not groups:
        return
    terminalreporter.section("speed-ups")
    for group, medians in groups.items():
        base = next((way for way in (REFERENCE, "torch") if way in medians), None)
        terminalreporter.line(group)
        for way, median in medians.items():
            ratio = "" if base in (None, way) else f"{medians[base] / median:10.1f} x {base}"
            terminalreporter.line(f"    {way:<26}{median:12.4f} s{ratio}")
    if config.getoption("--full"):
        write_grid(groups)
        write_tables()
