"""Kill `patchcore watch` again and again at random moments while images arrive; count each image's results.

``python -m benchmarks.watch_kills MODEL`` draws the images, starts the command as users do, kills it (SIGKILL), starts
it again, and prints what is in ``results.jsonl`` in the end.
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


def arrive(images: list[Path], folder: Path, seconds: float, rng: random.Random) -> None:
    """Write images into a folder, some of them slowly, within so many seconds."""
    for image in images:
        data = image.read_bytes()
        cut = rng.randrange(len(data))
        with (folder / image.name).open("wb") as file:
            file.write(data[:cut])
            file.flush()
            time.sleep(rng.uniform(0, 2 * seconds / len(images)))
            file.write(data[cut:])


def killed(command: list[str], results: Path, rng: random.Random) -> tuple[float, int]:
    """Start the command and kill it; return the seconds that it lived, and the lines that it added."""
    before = lines(results)
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        when = rng.random()
        if when > 0.2:  # otherwise while it loads the model
            said = next((line for line in process.stderr if "watched" in line), None)
            if said is None:
                sys.exit(f"the watch ended by itself, with {process.wait()}")
        end = time.monotonic() + 30
        while when > 0.4 and lines(results) == before and time.monotonic() < end:  # amid the results of a batch
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3 if when > 0.4 else 3))
        process.kill()
        process.kill()
    return time.monotonic() - start, lines(results) - before


def lines(results: Path) -> int:
    """Return how many whole lines there are."""
    return results.read_bytes().count(b"\n") if results.exists() else 0


def main() -> None:
    """Draw, kill, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        drawn = sorted(draw_dataset(root, seed=asked.seed, train=asked.images, good=1, defective=1).glob("train/*/*"))
        folder, out = root / "arriving", root / "results"
        folder.mkdir()
        results = out / "results.jsonl"
        words = ["watch", str(asked.model), str(folder), "--out", str(out), "--every", "0.1"]
        command = [sys.executable, "-c", PROGRAM, *words]
        camera = threading.Thread(target=arrive, args=(drawn, folder, 6.0 * asked.kills, rng), daemon=True)
        camera.start()
        for number in range(asked.kills):
            lived, added = killed(command, results, rng)
            torn = results.exists() and not results.read_bytes().endswith(b"\n") and results.stat().st_size > 0
            print(
                f"kill {number + 1:>3}  after {lived:5.2f} s  {added:>3} images judged{'  torn line' * torn}",
                flush=True,
            )
        camera.join()
        subprocess.run([*command, "--until-idle", "1"], check=True, stdout=subprocess.DEVNULL)
        found = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        counts = collections.Counter(record["path"] for record in found)
        wrong = {image.name: counts[image.name] for image in drawn if counts[image.name] != 1}
        failed = [record["path"] for record in found if "error" in record]
        pictures = sum((out / record["overlay"]).is_file() for record in found if "error" not in record)
        files = sum(path.is_file() for path in (out / "overlays").iterdir())
    print(f"{len(drawn)} images, {len(found)} results, {len(failed)} could not be read")
    print(f"{pictures} overlays named, {files} files; each image has one result: {not wrong and not failed}")
    if wrong or failed or len(found) != len(drawn) or pictures != files:
        sys.exit(f"wrong: {wrong} {failed}")


if __name__ == "__main__":
    main()
