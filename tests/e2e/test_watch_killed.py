"""A watch that is killed again and again: each image has one result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.inference.watched_model import (
    Brightness,
    fast_watch,
    put,
    records,
    require_one_result_per_image,
    watch_once,
)

ROOT = Path(__file__).parents[2]
KILLS = 20
IMAGES = 100


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork, because torch starts slowly")
def test_each_image_has_one_result(folder: Path, out: Path) -> None:
    program = "import sys; from tests.e2e.test_watch_killed import kill_watches; kill_watches(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), str(out)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    progress = json.loads(process.stdout)
    assert len(progress) == KILLS
    # Enough kills interrupted the work, and no kill removed lines.
    assert sum(0 < lines < images for images, lines in progress) > KILLS // 4
    assert [lines for _, lines in progress] == sorted(lines for _, lines in progress)
    watch_once(folder, out)
    assert len(records(out)) == IMAGES
    require_one_result_per_image(folder, out)


def kill_watches(watched: str, results: str) -> None:
    """Start watches, kill them at random moments while images arrive, and print images and lines after each."""
    from patchcore_plugin.inference import rendering  # noqa: F401  imported before the forks

    folder, out = Path(watched), Path(results)
    rng = random.Random(0)
    progress: list[tuple[int, int]] = []

    def count_lines() -> int:
        file = out / "results.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for number in range(KILLS):
        for image in range(IMAGES // KILLS):
            put(folder, f"{number:02}_{image}.png", rng.randrange(256))
        watch = os.fork()
        if watch == 0:
            for _ in fast_watch(folder, out, Brightness(seconds=0.005)).run():
                pass
            os._exit(1)
        begun = number % 4 == 0  # some are killed before their first prediction
        deadline = time.monotonic() + 10
        while not begun and time.monotonic() < deadline:
            time.sleep(0.002)
            begun = count_lines() > (progress[-1][1] if progress else 0)
        time.sleep(rng.uniform(0, 0.08))
        os.kill(watch, signal.SIGKILL)
        _, status = os.waitpid(watch, 0)
        assert os.WIFSIGNALED(status)
        progress.append(((number + 1) * (IMAGES // KILLS), count_lines()))
    print(json.dumps(progress))
