"""What is published works: wheels alone, in an environment of their own; and the tutorial, followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sampler_plugin"
DISTRIBUTIONS = [ROOT, EXAMPLE, *(path.parent for path in sorted(ROOT.glob("backbones/*/pyproject.toml")))]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Environment:
    """A virtual environment with what is installed from the wheels in `wheels`, and third parties' packages."""

    path: Path
    wheels: Path

    def run(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a bash script as if the environment were activated, without a network."""
        names = ("HOME", "LANG", "TMPDIR")
        variables = {name: os.environ[name] for name in names if name in os.environ} | {
            "OMP_NUM_THREADS": "1",  # more wait for each other where other work runs beside the tests
            "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads the name as that of the setting, which is now off
            "PIP_NO_INDEX": "1",
        }
        return subprocess.run(
            ["bash", "-euc", script], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
        )

    def expect(self, script: str, folder: Path) -> str:
        """Run a script that must succeed, and return its standard output."""
        done = self.run(script, folder)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheels of all distributions into one folder."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    builds = [
        subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for path in DISTRIBUTIONS
    ]
    for build in builds:
        said, _ = build.communicate(timeout=300)
        assert build.returncode == 0, said
    return folder


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Callable[[], Environment]:
    """Return a maker of environments that have what the project needs, but nothing of the project itself.

    torch and the rest would be gigabytes to install, so an environment borrows them from the one that runs the
    tests. It cannot have that one's site-packages whole: the project's editable installs would come along, their
    metadata and entry points too, and a wheel that lacks a file would pass. So it has a folder of links to
    everything but these, and a .pth file that puts the folder after its own site-packages. pip is borrowed too:
    with its own, the environment would get the setuptools that comes with Python, which can be too old for torch.
    """
    borrowed = tmp_path_factory.mktemp("borrowed")
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            ours = re.match(r"(_editable_impl_)?patchcore", entry.name)
            if not (ours or entry.suffix == ".pth"):
                (borrowed / entry.name).symlink_to(entry)

    def make() -> Environment:
        path = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=120)
        site = sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)})
        Path(site, "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
        pip = path / "bin" / "pip"
        pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n', encoding="utf-8")
        pip.chmod(0o755)
        return Environment(path, wheels)

    return make


@pytest.mark.parametrize("source", DISTRIBUTIONS, ids=lambda path: path.name)
def test_a_wheel_holds_the_package_whole_and_nothing_else(source: Path, wheels: Path) -> None:
    (package,) = (path.parent for path in (source, *source.glob("src")) for path in path.glob("patchcore_*/py.typed"))
    wheel = next(wheels.glob(f"{_name(source).replace('-', '_')}-*.whl"))
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    assert held - info == {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    ours = {"entry_points.txt", "licenses/LICENSE"}
    assert {name.partition("/")[2] for name in info} == {"METADATA", "WHEEL", "RECORD", *ours}


def test_the_wheel_holds_what_is_no_python(wheels: Path) -> None:
    with ZipFile(next(wheels.glob("patchcore_plugin-*.whl"))) as archive:
        held = set(archive.namelist())
    names = ("py.typed", "recipes/patchcore.toml", "recipes/patchcore-paper.toml", "templates/report.html.j2")
    assert {f"patchcore_plugin/{name}" for name in names} <= held
    assert not [name for name in held if "tests" in Path(name).parts]


def test_third_parties_plugins_are_used_by_name_and_missed_by_name(
    new_environment: Callable[[], Environment], dataset: Path, tmp_path: Path
) -> None:
    environment = new_environment()
    environment.expect(f"pip install {' '.join(_name(path) for path in DISTRIBUTIONS)}", tmp_path)
    listed = json.loads(environment.expect("patchcore plugins list --json", tmp_path))
    assert {row["status"] for row in listed} == {"loaded"}
    assert {row["distribution"] for row in listed} == {_name(path) for path in DISTRIBUTIONS}
    where = "import patchcore_kmeans, patchcore_plugin as pp; print(pp.__file__, patchcore_kmeans.__file__, sep='\\n')"
    for file in environment.expect(f'python -c "{where}"', tmp_path).split():
        assert Path(file).is_relative_to(environment.path)
    backbone = "--backbone timm --set backbone.model=test_resnet --set backbone.weights=random"
    sampler = "--sampler k-means --set sampler.count=20"
    environment.expect(f"patchcore fit {dataset / 'train'} --out m.safetensors {backbone} {sampler}", tmp_path)
    environment.expect("pip uninstall --yes patchcore-kmeans", tmp_path)
    missed = environment.run(f"patchcore predict m.safetensors {dataset / 'test'} --out results", tmp_path)
    assert missed.returncode == 1
    assert missed.stdout == ""
    assert missed.stderr == (
        "patchcore: m.safetensors: needs sampler 'k-means', which is not available here; "
        "pip install --upgrade patchcore-kmeans (details: patchcore plugins list)\n"
    )


BLOCKS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', TUTORIAL, flags=re.DOTALL | re.MULTILINE)
FILES = {title: text for _, title, text in BLOCKS if title}
"""The files that the tutorial shows, by path; of a file that grows, the last."""


def test_the_tutorial_shows_the_example() -> None:
    assert set(FILES) == {
        path.relative_to(EXAMPLE).as_posix()
        for path in EXAMPLE.rglob("*")
        if path.is_file() and path.stat().st_size and path.name != "LICENSE" and "__pycache__" not in path.parts
    }
    for title, text in FILES.items():
        assert text == (EXAMPLE / title).read_text(encoding="utf-8"), title


def test_the_tutorial_begins_with_a_plugin_of_twenty_lines() -> None:
    first = next(text for language, title, text in BLOCKS if title and language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 20


def test_the_tutorial_can_be_followed(new_environment: Callable[[], Environment], tmp_path: Path) -> None:
    """Each file is written and each command run in turn; what is shown as output is what they print."""
    environment = new_environment()
    environment.expect("pip install patchcore-plugin patchcore-efficientnet-lite", tmp_path)
    folder = tmp_path / "empty"
    folder.mkdir()
    for language, title, text in BLOCKS:
        if title:
            (folder / title).write_text(text, encoding="utf-8")
        elif language == "console":
            lines = text.replace("\\\n", "").splitlines()
            commands = [line[2:] for line in lines if line.startswith("$ ")]
            shown = [line for line in lines if not line.startswith("$ ")]
            # What a command builds in an environment of its own would have to come from a network.
            script = "\n".join(commands).replace("python -m build", "python -m build --no-isolation")
            done = environment.run(f'{script}\npwd > "{tmp_path / "folder"}"', folder)
            said = done.stdout + done.stderr
            failure = any(line.startswith("patchcore: ") for line in shown)
            assert done.returncode == failure, f"{script}\n{said}"
            for line in shown:
                pattern = ".*".join(map(re.escape, line.split("...")))
                assert re.search(f"^{pattern}$", said, flags=re.MULTILINE), f"{script}\n{line}\n{said}"
            if not failure:
                folder = Path((tmp_path / "folder").read_text(encoding="utf-8").strip())
    (wheel,) = (folder / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        assert {"patchcore_kmeans/__init__.py", "patchcore_kmeans/py.typed"} <= set(archive.namelist())


def _name(source: Path) -> str:
    """Return the name of the distribution in a folder."""
    found = re.search(r'^name = "(.+)"$', (source / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]
