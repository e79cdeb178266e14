"""`patchcore watch`: score images as they arrive in a folder."""

from __future__ import annotations

import json
import signal
import statistics
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from . import options
from .console import VERDICTS, escape_unprintable, format_count, format_decimal


def command(
    context: typer.Context,
    model: options.ModelArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to watch, with its subfolders.", readable=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, heat maps and overlays.")],
    every: Annotated[float, typer.Option("--every", min=0.01, help="Seconds between scans of the folder.")] = 1.0,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            min=0,
            help="Stop after this many seconds without new images; 0 processes the images present and stops.",
            show_default="run until interrupted",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each record as one line of JSON.")] = False,
) -> None:
    """Score images as they arrive in a folder, each once, until interrupted."""
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.watch import Watch
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device=device, precision=precision, host=options.create_host(context))
    explain = ExplanationPictures(detector.thumbnails)
    watch = Watch(detector, folder, out, every=every, explain=explain, announce=_print_note)
    defective, unreadable, latencies = 0, 0, array("d")
    with _stop_signals() as stop, closing(watch.run(until_idle=until_idle, stop=stop)) as results:
        for record, seconds in results:
            if not latencies and not as_json:
                _print_row("verdict", "score", "p-value", "latency", "image")
            latencies.append(seconds)
            defective += record.get("is_anomalous") is True
            unreadable += "error" in record
            if as_json:
                print(json.dumps({**record, "latency_seconds": round(seconds, 3)}), flush=True)
            elif "error" in record:
                _print_row("failed", "-", "-", f"{seconds:.2f} s", record["error"])
            else:
                score, p_value = format_decimal(record["score"], 3), format_decimal(record["p_value"], 3)
                _print_row(VERDICTS[record["is_anomalous"]], score, p_value, f"{seconds:.2f} s", record["path"])
    summary = f"{format_count(len(latencies), 'image')}: {defective} defective, {unreadable} unreadable"
    if latencies:
        summary += f"; latency {statistics.median(latencies):.2f} s (median), {max(latencies):.2f} s (maximum)"
    print(summary, file=sys.stderr if as_json else sys.stdout)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM arrived; a second signal ends the process at once."""
    arrivals: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        arrivals.append(number)
        restore()

    for number in previous:
        signal.signal(number, stop)
    try:
        yield lambda: bool(arrivals)
    finally:
        restore()


def _print_row(verdict: str, score: str, p_value: str, latency: str, image: str) -> None:
    print(f"{verdict:<7}  {score:>9}  {p_value:>7}  {latency:>9}  {escape_unprintable(image)}", flush=True)


def _print_note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
