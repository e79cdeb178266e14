"""What the README and the pages of docs/ show is true: code runs, commands exist, and the site says what there is."""

from __future__ import annotations

import html
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import patchcore_plugin as pp
from patchcore_plugin.cli import app
from patchcore_plugin.cli.options import DetectorOptions
from patchcore_plugin.cli.parsing import group_by_recipe
from patchcore_plugin.models.fitting.memory import COPIES
from patchcore_plugin.models.recipes import Map, Preprocessing, Recipe
from patchcore_plugin.plugins import hookspecs
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.specs import ROLES

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]

ELSEWHERE = {"docs/tutorial.md": "tests/e2e/test_wheels.py"}
"""Pages whose Python blocks have a title, that of the file which they are; and the test that runs them instead."""
FOREIGN = {"cd", "mkdir", "pip", "python", "touch"}
"""Programs of others: what comes after their name is not checked."""


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page that say this language and nothing more."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(body) for _, body in found]


def console(page: str) -> Iterator[str]:
    """Yield the commands that a page shows, without comments."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.join(shlex.split(line[2:], comments=True))


def recipes(page: str) -> list[str]:
    return [block for block in blocks(page, "toml") if "[backbone]" in block or "[[members]]" in block]


def parse(words: list[str]) -> dict[str, Any]:
    """Return the parameters of a `patchcore` command line as its command would get them; nothing is run."""
    command: Any = typer.main.get_command(app)
    context, name = None, "patchcore"
    while hasattr(command, "commands"):
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        _, (name, *words), _ = command.make_parser(context).parse_args(words)
        assert name in command.commands, f"patchcore has no command {name}"
        command = command.commands[name]
    return dict(command.make_context(name, words, parent=context).params)


def readme_plugin() -> str:
    (source,) = (block for block in blocks("README.md", "python") if "hookimpl" in block)
    return source


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> pp.Host:
    """Everything that is installed here, and the plugin of the README."""
    path = tmp_path_factory.mktemp("plugin") / "my_module.py"
    path.write_text(readme_plugin(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return pp.Host(extra={"every": module})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the site, strictly; return the HTML of its pages by address."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = folder.rglob("index.html")
    return {path.parent.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in found}


def text(page: str) -> str:
    """Return what a reader sees of a page, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "error", "page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_python_that_is_not_run_here_is_run_elsewhere() -> None:
    for page, path in PAGES.items():
        others = re.findall(r"^ *```python .+$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert bool(others) == (page in ELSEWHERE), page
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_the_plugin_in_the_readme_is_short_and_works(host: pp.Host) -> None:
    assert len([line for line in readme_plugin().splitlines() if line.strip()]) <= 20
    assert host.create("sampler", "every", step=3)(torch.ones(8, 2)).tolist() == [0, 3, 6]


@pytest.mark.parametrize(("page", "command"), [(page, command) for page in PAGES for command in console(page)])
def test_commands_exist(
    page: str, command: str, host: pp.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[0]}:", makefile, flags=re.MULTILINE)
        return
    if program in FOREIGN:
        return
    assert program == "patchcore"
    monkeypatch.chdir(tmp_path)
    for name in (word for word in words if word.endswith(".toml")):
        Path(name).write_text(recipes(page)[0], encoding="utf-8")
    given = parse(words)
    if "recipe" in given:
        several = given["recipe"] if isinstance(given["recipe"], list | tuple) else [given["recipe"]]
        names = list(several) or ["patchcore"]
        for name, options in group_by_recipe(given["options"] or (), names).items():
            setup = DetectorOptions(recipe=name, options=options, **{role: given[role] for role in ROLES})
            setup.load_recipe().resolve(host, 0)


@pytest.mark.parametrize("page", list(PAGES))
def test_options_in_the_text_exist(page: str, host: pp.Host) -> None:
    known = {f"preprocessing.{each.name}" for each in describe(Preprocessing)}
    known |= {f"map.{each.name}" for each in describe(Map)}
    for component in host.components():
        known |= {f"{component.spec.role}.{each.name}" for each in describe(component.spec.config)}
    shown = re.findall(
        rf"`[^`\n]*?\b((?:{'|'.join(ROLES)}|preprocessing|map)\.\w+)=", PAGES[page].read_text(encoding="utf-8")
    )
    assert set(shown) <= known


@pytest.mark.parametrize("page", [page for page in PAGES if recipes(page)])
def test_recipes_of_ones_own_are_valid(page: str, host: pp.Host, tmp_path: Path) -> None:
    for source in recipes(page):
        path = tmp_path / "mine.toml"
        path.write_text(source, encoding="utf-8")
        Recipe.load(str(path)).resolve(host, 0)


def test_what_comes_out_is_what_the_first_page_says(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "washer").symlink_to(dataset)
    monkeypatch.chdir(tmp_path)
    page = "docs/index.md"
    for command in console(page):
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
    files, fields = re.findall(r"^\|---\|---\|\n((?:\|.*\n)+)", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    named = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in files.splitlines()]
    assert {name for row in named for name in row if not Path(name).exists()} == set()
    record = json.loads(Path("results/results.jsonl").read_text(encoding="utf-8").splitlines()[0])
    named = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in fields.splitlines()]
    assert {name for row in named for name in row} == set(record)
    assert set(record["nearest"]) <= set(re.findall(r"`(\w+)`", fields))


def test_the_memory_of_a_fit_is_what_the_page_says() -> None:
    page = " ".join(PAGES["docs/performance.md"].read_text(encoding="utf-8").split())
    images, patches, values = 200, (256 // 8) ** 2, 512 + 1024
    assert f"takes {COPIES} times" in page
    assert f"{patches:,} patches of {values:,} values" in page
    assert f"need {COPIES * images * patches * values * 4 / 1e9:.1f} GB" in page


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_site_has_every_page_in_its_navigation(site: dict[str, str]) -> None:
    navigation = re.findall(
        r'class="md-nav__link[^"]*"[^>]*href="([^"]*)"|href="([^"]*)"[^>]*class="md-nav__link', site["."]
    )
    linked = {first or second for first, second in navigation}
    assert {page.removesuffix(".").rstrip("/") + "/" for page in site if page != "."} <= linked
    for page in PAGES:
        if page.startswith("docs/") and page != "docs/index.md":
            assert page.removeprefix("docs/").removesuffix(".md") in site


def test_the_site_fetches_nothing_from_elsewhere(site: dict[str, str]) -> None:
    for page in site.values():
        assert re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page) == []


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_has_its_page_and_its_test(site: dict[str, str], hook: str) -> None:
    role = hook.removeprefix("patchcore_").removesuffix("s")
    signature = f"{hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")
    assert signature in text(site[f"roles/{role}"])
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(hook in path.read_text(encoding="utf-8") for path in tests)


@pytest.mark.parametrize("role", list(ROLES))
def test_each_built_in_component_is_on_the_page_of_its_role_with_all_options(site: dict[str, str], role: str) -> None:
    page = text(site[f"roles/{role}"])
    for component in pp.Host(entry_points=False).components(role):
        assert component.spec.name in page
        for option in describe(component.spec.config):
            row = f"{role}.{option.name} {option.meaning} {option.default} {option.type}"
            assert " ".join(row.replace("`", "").split()) in page


def test_each_shipped_recipe_is_on_the_recipes_page(site: dict[str, str]) -> None:
    page = text(site["recipes"])
    for name in Recipe.names():
        source = (Path(pp.__file__).parent / "models" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        assert f"{name} ¶ {Recipe.load(name).summary}." in page.replace("¶", " ¶").replace("  ", " ")
        assert " ".join(source.split()) in page


def test_each_command_is_on_its_page_with_all_options(site: dict[str, str]) -> None:
    page = text(site["command-line"]).lower()  # an argument's name is written in capitals by some versions of typer

    def check(command: Any, path: str) -> None:
        assert f"{path} " in page
        for parameter in command.params:
            assert all(name in page for name in parameter.opts), path
        for name, child in getattr(command, "commands", {}).items():
            check(child, f"{path} {name}")

    check(typer.main.get_command(app), "patchcore")


def test_each_public_name_is_documented(site: dict[str, str]) -> None:
    everything = "".join(site.values())
    assert [name for name in pp.__all__ if f'id="patchcore_plugin.{name}"' not in everything] == []


def test_each_distribution_has_its_page(site: dict[str, str]) -> None:
    for project in (*ROOT.glob("backbones/*/pyproject.toml"), *ROOT.glob("examples/*/pyproject.toml")):
        assert f"distributions/{project.parent.name}" in site


def test_the_names_of_anomalib_are_its_own() -> None:
    package = importlib.util.find_spec("anomalib")
    if package is None or package.origin is None:
        pytest.skip("anomalib is not installed")
    root = Path(package.origin).parent
    files = [
        "models/image/patchcore/lightning_model.py",
        "engine/engine.py",
        *("data/datamodules/image/mvtecad.py", "data/datamodules/image/folder.py"),
        "pre_processing/pre_processor.py",
    ]
    source = "".join((root / name).read_text(encoding="utf-8") for name in files)
    table = PAGES["docs/migration.md"].read_text(encoding="utf-8").split("\n## ")[1]
    theirs = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    for argument in re.findall(r"(\w+)=", theirs):
        assert re.search(rf"\b{argument}: ", source), argument
    for method in re.findall(r"\.(\w+)\(", theirs):
        assert f"def {method}(" in source, method
