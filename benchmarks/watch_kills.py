"""Kill `patchcore watch` at random moments while images arrive, and count the results of each image.

``python -m benchmarks.watch_kills MODEL`` draws the images, starts the command as a user would, kills it (SIGKILL) and
restarts it, and finally checks ``results.jsonl``.
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


def copy_slowly(images: list[Path], folder: Path, seconds: float, rng: random.Random) -> None:
    """Copy images into a folder, each in two writes with a random pause, in about `seconds` in total."""
    for image in images:
        data = image.read_bytes()
        cut = rng.randrange(len(data))
        with (folder / image.name).open("wb") as file:
            file.write(data[:cut])
            file.flush()
            time.sleep(rng.uniform(0, 2 * seconds / len(images)))
            file.write(data[cut:])


def start_and_kill(command: list[str], results: Path, rng: random.Random) -> tuple[float, int]:
    """Start the command and kill it; return the seconds it ran and the lines it added."""
    before = count_lines(results)
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        moment = rng.random()
        if moment > 0.2:  # otherwise while it loads the model
            first_line = next((line for line in process.stderr if "watched" in line), None)
            if first_line is None:
                sys.exit(f"the watch ended by itself, with exit code {process.wait()}")
        end = time.monotonic() + 30
        while moment > 0.4 and count_lines(results) == before and time.monotonic() < end:  # in the middle of a batch
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3 if moment > 0.4 else 3))
        process.kill()
    return time.monotonic() - start, count_lines(results) - before


def count_lines(results: Path) -> int:
    """Return the number of complete lines."""
    return results.read_bytes().count(b"\n") if results.exists() else 0


def main() -> None:
    """Draw images, kill the watch repeatedly, and check the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        dataset = draw_dataset(root, seed=arguments.seed, train=arguments.images, good=1, defective=1)
        images = sorted(dataset.glob("train/*/*"))
        folder, out = root / "arriving", root / "results"
        folder.mkdir()
        results = out / "results.jsonl"
        options = ["watch", str(arguments.model), str(folder), "--out", str(out), "--every", "0.1"]
        command = [sys.executable, "-c", PROGRAM, *options]
        camera = threading.Thread(target=copy_slowly, args=(images, folder, 6.0 * arguments.kills, rng), daemon=True)
        camera.start()
        for number in range(arguments.kills):
            seconds, added = start_and_kill(command, results, rng)
            torn = results.exists() and not results.read_bytes().endswith(b"\n") and results.stat().st_size > 0
            print(
                f"kill {number + 1:>3}  after {seconds:5.2f} s  {added:>3} images recorded{'  torn line' * torn}",
                flush=True,
            )
        camera.join()
        subprocess.run([*command, "--until-idle", "1"], check=True, stdout=subprocess.DEVNULL)
        records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        counts = collections.Counter(record["path"] for record in records)
        wrong = {image.name: counts[image.name] for image in images if counts[image.name] != 1}
        failed = [record["path"] for record in records if "error" in record]
        overlays = sum((out / record["overlay"]).is_file() for record in records if "error" not in record)
        files = sum(path.is_file() for path in (out / "overlays").iterdir())
    print(f"{len(images)} images, {len(records)} results, {len(failed)} could not be read")
    print(f"{overlays} overlays in results, {files} overlay files; one result per image: {not wrong and not failed}")
    if wrong or failed or len(records) != len(images) or overlays != files:
        sys.exit(f"wrong: {wrong} {failed}")


if __name__ == "__main__":
    main()
