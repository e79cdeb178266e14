"""Kill `patchcore watch` repeatedly at random moments while images arrive, then count the results of each image.

``python -m benchmarks.watch_kills MODEL`` draws the images, starts the command, kills it (SIGKILL), restarts it, and
finally checks ``results.jsonl``: each image must have exactly one result.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from patchcore_plugin.data.synthetic import draw_dataset

PROGRAM = "import sys; from patchcore_plugin.cli import main; sys.argv[0] = 'patchcore'; main()"


def write_slowly(images: list[Path], folder: Path, seconds: float, rng: random.Random) -> None:
    """Write images to a folder within about `seconds`, with pauses in the middle of files."""
    for image in images:
        data = image.read_bytes()
        cut = rng.randrange(len(data))
        with (folder / image.name).open("wb") as file:
            file.write(data[:cut])
            file.flush()
            time.sleep(rng.uniform(0, 2 * seconds / len(images)))
            file.write(data[cut:])


def run_until_killed(command: list[str], results: Path, rng: random.Random) -> tuple[float, int]:
    """Start the command and kill it; return its run time in seconds, and the number of lines that it added."""
    before = count_lines(results)
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        when = rng.random()
        if when > 0.2:  # otherwise the kill comes while the model loads
            message = next((line for line in process.stderr if "watched" in line), None)
            if message is None:
                sys.exit(f"patchcore watch ended early with exit code {process.wait()}")
        end = time.monotonic() + 30
        while when > 0.4 and count_lines(results) == before and time.monotonic() < end:  # among the results of a batch
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3 if when > 0.4 else 3))
        process.kill()
        process.kill()
    return time.monotonic() - start, count_lines(results) - before


def count_lines(results: Path) -> int:
    """Return the number of complete lines."""
    return results.read_bytes().count(b"\n") if results.exists() else 0


def main() -> None:
    """Draw the images, kill the command repeatedly, and count the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        drawn = sorted(
            draw_dataset(root, seed=options.seed, train=options.images, good=1, defective=1).glob("train/*/*")
        )
        folder, out = root / "arriving", root / "results"
        folder.mkdir()
        results = out / "results.jsonl"
        words = ["watch", str(options.model), str(folder), "--out", str(out), "--every", "0.1"]
        command = [sys.executable, "-c", PROGRAM, *words]
        camera = threading.Thread(target=write_slowly, args=(drawn, folder, 6.0 * options.kills, rng), daemon=True)
        camera.start()
        for number in range(options.kills):
            seconds, added = run_until_killed(command, results, rng)
            torn = results.exists() and not results.read_bytes().endswith(b"\n") and results.stat().st_size > 0
            print(
                f"kill {number + 1:>3}  after {seconds:5.2f} s  {added:>3} images predicted{'  torn line' * torn}",
                flush=True,
            )
        camera.join()
        subprocess.run([*command, "--until-idle", "1"], check=True, stdout=subprocess.DEVNULL)
        records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        counts = collections.Counter(record["path"] for record in records)
        wrong = {image.name: counts[image.name] for image in drawn if counts[image.name] != 1}
        failed = [record["path"] for record in records if "error" in record]
        pictures = sum((out / record["overlay"]).is_file() for record in records if "error" not in record)
        files = sum(path.is_file() for path in (out / "overlays").iterdir())
    print(f"{len(drawn)} images, {len(records)} results, {len(failed)} unreadable")
    print(f"{pictures} overlays listed, {files} files; one result per image: {not wrong and not failed}")
    if wrong or failed or len(records) != len(drawn) or pictures != files:
        sys.exit(f"wrong: {wrong} {failed}")


if __name__ == "__main__":
    main()
