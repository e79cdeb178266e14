"""Wheels in a new environment, and the tutorial with all its commands."""

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
    """A virtual environment for the wheels in a folder, with all third-party packages."""

    path: Path
    wheels: Path

    def run(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a bash script in the environment, without network access."""
        names = ("HOME", "LANG", "TMPDIR")
        variables = {name: os.environ[name] for name in names if name in os.environ} | {
            "OMP_NUM_THREADS": "1",  # more threads are slow on a loaded machine
            "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_BUILD_ISOLATION": "0",  # means that build isolation is off
            "PIP_NO_INDEX": "1",
        }
        return subprocess.run(
            ["bash", "-euc", script], cwd=folder, env=variables, capture_output=True, text=True, timeout=600
        )

    def expect(self, script: str, folder: Path) -> str:
        """Run a script that must succeed, and return its standard output."""
        process = self.run(script, folder)
        assert process.returncode == 0, f"{script}\n{process.stdout}\n{process.stderr}"
        return process.stdout


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
        output, _ = build.communicate(timeout=600)
        assert build.returncode == 0, output
    return folder


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Callable[[], Environment]:
    """Return a function that creates environments with all dependencies, but without the project.

    Installing torch and others would take gigabytes, so an environment links to the packages of the current one. A
    folder of links, in a .pth file, excludes the editable installs of the project with their metadata and entry
    points, since a wheel that lacks a file would pass with them. pip is linked too: a new one would bring the
    setuptools of Python, which can be too old for torch.
    """
    links = tmp_path_factory.mktemp("links")
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            own = re.match(r"(_editable_impl_)?patchcore", entry.name)
            if not (own or entry.suffix == ".pth"):
                (links / entry.name).symlink_to(entry)

    def create() -> Environment:
        path = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=120)
        site = sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)})
        Path(site, "links.pth").write_text(f"{links}\n", encoding="utf-8")
        pip = path / "bin" / "pip"
        pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n', encoding="utf-8")
        pip.chmod(0o755)
        return Environment(path, wheels)

    return create


@pytest.mark.e2e
@pytest.mark.parametrize("source", DISTRIBUTIONS, ids=lambda path: path.name)
def test_wheel_has_exactly_the_files_of_the_package(source: Path, wheels: Path) -> None:
    (package,) = (path.parent for path in (source, *source.glob("src")) for path in path.glob("patchcore_*/py.typed"))
    wheel = next(wheels.glob(f"{_name(source).replace('-', '_')}-*.whl"))
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - info == {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    extra = {"entry_points.txt", "licenses/LICENSE"}
    assert {name.partition("/")[2] for name in info} == {"METADATA", "WHEEL", "RECORD", *extra}


@pytest.mark.e2e
def test_wheel_has_data_files(wheels: Path) -> None:
    with ZipFile(next(wheels.glob("patchcore_plugin-*.whl"))) as archive:
        files = set(archive.namelist())
    names = ("py.typed", "models/recipes/patchcore.toml", "evaluation/report/templates/report.html.j2")
    assert {f"patchcore_plugin/{name}" for name in names} <= files
    assert not [name for name in files if "tests" in Path(name).parts]


@pytest.mark.e2e
def test_third_party_plugins_are_used_and_reported_if_missing(
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
    process = environment.run(f"patchcore predict m.safetensors {dataset / 'test'} --out results", tmp_path)
    assert process.returncode == 1
    assert process.stdout == ""
    assert "pip install --upgrade patchcore-kmeans" in process.stderr


BLOCKS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', TUTORIAL, flags=re.DOTALL | re.MULTILINE)
FILES = {title: text for _, title, text in BLOCKS if title}
"""The files in the tutorial by path; the last version if there are several."""


def test_tutorial_has_the_files_of_the_example() -> None:
    assert set(FILES) == {
        path.relative_to(EXAMPLE).as_posix()
        for path in EXAMPLE.rglob("*")
        if path.is_file() and path.stat().st_size and path.name != "LICENSE" and "__pycache__" not in path.parts
    }
    for title, text in FILES.items():
        assert text == (EXAMPLE / title).read_text(encoding="utf-8"), title


def test_tutorial_begins_with_twenty_lines() -> None:
    first = next(text for language, title, text in BLOCKS if title and language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 20


@pytest.mark.e2e
def test_commands_of_the_tutorial_work(new_environment: Callable[[], Environment], tmp_path: Path) -> None:
    """Write each file and run each command; the output must be as shown."""
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
            # An isolated build would need a network.
            script = "\n".join(commands).replace("python -m build", "python -m build --no-isolation")
            process = environment.run(f'{script}\npwd > "{tmp_path / "folder"}"', folder)
            output = process.stdout + process.stderr
            failure = any(line.startswith("patchcore: ") for line in shown)
            assert process.returncode == failure, f"{script}\n{output}"
            for line in shown:
                pattern = ".*".join(map(re.escape, line.split("...")))
                assert re.search(f"^{pattern}$", output, flags=re.MULTILINE), f"{script}\n{line}\n{output}"
            if not failure:
                folder = Path((tmp_path / "folder").read_text(encoding="utf-8").strip())
    (wheel,) = (folder / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        assert {"patchcore_kmeans/__init__.py", "patchcore_kmeans/py.typed"} <= set(archive.namelist())


def _name(source: Path) -> str:
    """Return the name of the distribution in a folder."""
    name = re.search(r'^name = "(.+)"$', (source / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert name is not None
    return name[1]
