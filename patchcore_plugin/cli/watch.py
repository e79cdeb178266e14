"""`patchcore watch`: images that arrive in a folder are judged as they come."""

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

from . import setup
from .console import number, printable

VERDICTS = {True: "defect", False: "good", None: "-"}


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model file written by fit.", readable=False)],
    folder: Annotated[Path, typer.Argument(help="Folder where images arrive, in subfolders too.", readable=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, heat maps and overlays.")],
    every: Annotated[float, typer.Option("--every", min=0.01, help="Seconds between two looks into the folder.")] = 1.0,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle", min=0, help="End when nothing arrived for so many seconds; 0: judge what is there, and end."
        ),
    ] = None,
    device: setup.DeviceOption = "auto",
    precision: setup.PrecisionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each image's record as one line of JSON.")] = False,
) -> None:
    """Judge images that arrive in a folder, each once, until it is told to end."""
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.watch import Watch
    from patchcore_plugin.models.loading import load_model

    detector = load_model(model, device=device, precision=precision, host=setup.host_of(context))
    watch = Watch(detector, folder, out, every=every, explain=ExplanationPictures(detector.thumbnails), announce=_note)
    defective, failed, latencies = 0, 0, array("d")
    with _told_to_end() as stop, closing(watch.run(until_idle=until_idle, stop=stop)) as done:
        for record, seconds in done:
            if not latencies and not as_json:
                _say("verdict", "score", "p-value", "latency", "image")
            latencies.append(seconds)
            defective += record.get("is_anomalous") is True
            failed += "error" in record
            if as_json:
                print(json.dumps({**record, "latency_seconds": round(seconds, 3)}), flush=True)
            elif "error" in record:
                _say("failed", "-", "-", f"{seconds:.2f} s", record["error"])
            else:
                figures = number(record["score"], 3), number(record["p_value"], 3)
                _say(VERDICTS[record["is_anomalous"]], *figures, f"{seconds:.2f} s", record["path"])
    images = "1 image" if len(latencies) == 1 else f"{len(latencies)} images"
    summary = f"{images}, {defective} defective, {failed} could not be read"
    if latencies:
        summary += f"; latency {statistics.median(latencies):.2f} s in the median, {max(latencies):.2f} s at worst"
    print(summary, file=sys.stderr if as_json else sys.stdout)


@contextmanager
def _told_to_end() -> Iterator[Callable[[], bool]]:
    """Yield what says whether Ctrl-C or the system asked this process to end; the second time it ends at once."""
    told: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in numbers}

    def restore() -> None:
        for each in numbers:
            signal.signal(each, before[each])

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        restore()

    for each in numbers:
        signal.signal(each, end)
    try:
        yield lambda: bool(told)
    finally:
        restore()


def _say(verdict: str, score: str, p_value: str, latency: str, image: str) -> None:
    print(f"{verdict:<7}  {score:>9}  {p_value:>7}  {latency:>9}  {printable(image)}", flush=True)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
