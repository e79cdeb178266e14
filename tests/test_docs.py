"""Code in the README and in docs/ runs, commands and options exist, links resolve, and the site is complete."""

from __future__ import annotations

import functools
import html
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from playwright.sync_api import Error, sync_playwright
from typer.testing import CliRunner

import patchcore_plugin as pp
from patchcore_plugin.cli import command_line
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

TESTED_ELSEWHERE = {"docs/tutorial.md": "tests/e2e/test_wheels.py"}
"""Pages whose Python blocks have the title of a file, and the test that runs them."""
OTHER_PROGRAMS = {"cd", "mkdir", "pip", "python", "touch"}
"""Programs whose arguments are not checked."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")
TIME_LIMIT = 600


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in this language, without those that have a title."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    matches = re.findall(pattern, PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(body) for _, body in matches]


def console(page: str) -> Iterator[str]:
    """Yield the commands of a page, without comments."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.join(shlex.split(line[2:], comments=True))


def recipes(page: str) -> list[str]:
    return [block for block in blocks(page, "toml") if "[backbone]" in block or "[[members]]" in block]


def parse(words: list[str]) -> dict[str, Any]:
    """Parse a `patchcore` command line and return the parameters of its command, without running it."""
    command: Any = typer.main.get_command(command_line)
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


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> pp.Host:
    """Return a host with all installed plugins and the plugin of the README."""
    path = tmp_path_factory.mktemp("plugin") / "my_module.py"
    path.write_text(readme_plugin(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return pp.Host(extra={"every": module})


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site strictly and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def site(site_folder: Path) -> dict[str, str]:
    """Return the HTML of the site's pages by address."""
    pages = site_folder.rglob("index.html")
    return {path.parent.relative_to(site_folder).as_posix(): path.read_text(encoding="utf-8") for path in pages}


def text(page: str) -> str:
    """Return the visible text of a page in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs_and_prints_the_output_shown(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "error", "page.py"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert process.returncode == 0, process.stderr
    if output := "".join(blocks(page, "output")):
        assert NUMBER.sub("", process.stdout).split() == NUMBER.sub("", output).split()
        numbers = [float(number) for number in NUMBER.findall(output)]
        # The last digits depend on the processor.
        assert [float(number) for number in NUMBER.findall(process.stdout)] == pytest.approx(numbers, rel=0.02, abs=0.1)


def test_python_with_a_title_is_tested_elsewhere() -> None:
    for page, path in PAGES.items():
        titled = re.findall(r"^ *```python .+$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert bool(titled) == (page in TESTED_ELSEWHERE), page
    for page, test in TESTED_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_patchcore_in_40_lines_has_40_lines() -> None:
    _, *method, _ = blocks("docs/patchcore-in-40-lines.md", "python")
    assert len([line for block in method for line in block.splitlines() if line.strip()]) == 40


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
    if program in OTHER_PROGRAMS:
        return
    assert program == "patchcore"
    monkeypatch.chdir(tmp_path)
    for name in (word for word in words if word.endswith(".toml")):
        Path(name).write_text(recipes(page)[0], encoding="utf-8")
    parameters = parse(words)
    if "recipe" in parameters:
        recipe = parameters["recipe"]
        names = (list(recipe) if isinstance(recipe, list | tuple) else [recipe]) or ["patchcore"]
        for name, options in group_by_recipe(parameters["options"] or (), names).items():
            components = {role: parameters[role] for role in ROLES}
            DetectorOptions(recipe=name, options=options, **components).load_recipe().resolve(host, 0)


@pytest.mark.parametrize("page", list(PAGES))
def test_options_in_the_text_exist(page: str, host: pp.Host) -> None:
    configs = [("preprocessing", Preprocessing), ("map", Map)]
    configs += [(component.spec.role, component.spec.config) for component in host.components()]
    options = {f"{table}.{option.name}" for table, config in configs for option in describe(config)}
    pattern = rf"`[^`\n]*?\b((?:{'|'.join(ROLES)}|preprocessing|map)\.\w+)="
    assert set(re.findall(pattern, PAGES[page].read_text(encoding="utf-8"))) <= options


@pytest.mark.parametrize("page", [page for page in PAGES if recipes(page)])
def test_recipe_files_are_valid(page: str, host: pp.Host, tmp_path: Path) -> None:
    for source in recipes(page):
        path = tmp_path / "mine.toml"
        path.write_text(source, encoding="utf-8")
        Recipe.load(str(path)).resolve(host, 0)


@pytest.mark.slow
def test_first_commands_write_the_files_and_fields_of_the_first_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [words for command in console("README.md") if (words := shlex.split(command))[0] == "patchcore"][:3]
    for words in first:
        result = CliRunner().invoke(command_line, words[1:])
        assert result.exit_code == 0, result.output
    tables = re.findall(
        r"^\|---\|---\|\n((?:\|.*\n)+)", PAGES["docs/index.md"].read_text(encoding="utf-8"), re.MULTILINE
    )
    files, fields = (
        {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])} for table in tables
    )
    assert {name for name in files if not Path(name).exists()} == set()
    record = json.loads(Path("results/results.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert fields == set(record)
    assert set(record["nearest"]) <= set(re.findall(r"`(\w+)`", tables[1]))


def test_memory_of_a_fit_is_the_figure_of_the_performance_page() -> None:
    page = " ".join(PAGES["docs/performance.md"].read_text(encoding="utf-8").split())
    images, patches, values = 200, (256 // 8) ** 2, 512 + 1024
    assert f"{COPIES * images * patches * values * 4 / 1e9:.1f} GB" in page


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_within_the_repository_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_pictures_are_small() -> None:
    assert [path.name for path in ROOT.glob("docs/**/*.png") if path.stat().st_size > 300_000] == []


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site: dict[str, str]) -> None:
    navigation = re.findall(
        r'class="md-nav__link[^"]*"[^>]*href="([^"]*)"|href="([^"]*)"[^>]*class="md-nav__link', site["."]
    )
    linked = {first or second for first, second in navigation}
    assert {page.removesuffix(".").rstrip("/") + "/" for page in site if page != "."} <= linked
    for page in PAGES:
        if page.startswith("docs/"):
            assert page.removeprefix("docs/").removesuffix(".md").removesuffix("index").rstrip("/") in {"", *site}


@pytest.mark.slow
def test_the_site_fetches_nothing(site: dict[str, str]) -> None:
    for page in site.values():
        assert re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page) == []


@pytest.mark.browser
@pytest.mark.slow
def test_search_ranks_the_page_of_the_topic_first(site_folder: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = os.environ.get("PATCHCORE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    handler = functools.partial(QuietHandler, directory=str(site_folder))
    first = {}
    with sync_playwright() as playwright, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        except Error as error:
            if executable is not None:
                raise
            pytest.skip(f"Chromium cannot be started; install it, or set PATCHCORE_CHROMIUM ({str(error)[:80]})")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for query in ("threshold", "false alarm", "ensemble"):
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/?q={query}")
            link = page.locator(".md-search-result__link").first
            first[query] = str(link.get_attribute("href", timeout=TIME_LIMIT * 1000)).split("#")[0].split("/")[-2]
        browser.close()
        server.shutdown()
    assert first == {"threshold": "calibration", "false alarm": "calibration", "ensemble": "recipes"}


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_has_its_page_and_its_test(site: dict[str, str], hook: str) -> None:
    role = hook.removeprefix("patchcore_").removesuffix("s")
    signature = f"{hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")
    assert signature in text(site[f"roles/{role}"])
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(hook in path.read_text(encoding="utf-8") for path in tests)


@pytest.mark.slow
@pytest.mark.parametrize("role", list(ROLES))
def test_each_built_in_component_is_on_the_page_of_its_role_with_all_options(site: dict[str, str], role: str) -> None:
    page = text(site[f"roles/{role}"])
    for component in pp.Host(entry_points=False).components(role):
        assert component.spec.name in page
        for option in describe(component.spec.config):
            row = f"{role}.{option.name} {option.meaning} {option.default} {option.type}"
            assert " ".join(row.replace("`", "").split()) in page


@pytest.mark.slow
def test_each_built_in_recipe_is_on_the_recipes_page(site: dict[str, str]) -> None:
    page = text(site["recipes"])
    for name in Recipe.names():
        source = (Path(pp.__file__).parent / "models" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        assert f"{name} ¶ {Recipe.load(name).summary}." in page.replace("¶", " ¶").replace("  ", " ")
        assert " ".join(source.split()) in page


@pytest.mark.slow
def test_each_command_is_on_its_page_with_all_options(site: dict[str, str]) -> None:
    page = text(site["command-line"]).lower()  # some versions of typer print arguments in capitals

    def check(command: Any, path: str) -> None:
        assert f"{path} " in page
        for parameter in command.params:
            assert all(name in page for name in parameter.opts), path
        for name, child in getattr(command, "commands", {}).items():
            check(child, f"{path} {name}")

    check(typer.main.get_command(command_line), "patchcore")


@pytest.mark.slow
def test_each_public_name_is_documented(site: dict[str, str]) -> None:
    pages = "".join(site.values())
    assert [name for name in pp.__all__ if f'id="patchcore_plugin.{name}"' not in pages] == []


@pytest.mark.slow
def test_each_distribution_has_its_page(site: dict[str, str]) -> None:
    for project in (*ROOT.glob("backbones/*/pyproject.toml"), *ROOT.glob("examples/*/pyproject.toml")):
        assert f"distributions/{project.parent.name}" in site


def test_names_of_anomalib_on_the_migration_page_exist() -> None:
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
    code = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    for argument in re.findall(r"(\w+)=", code):
        assert re.search(rf"\b{argument}: ", source), argument
    for method in re.findall(r"\.(\w+)\(", code):
        assert f"def {method}(" in source, method
