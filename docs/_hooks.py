"""Insert into the site what the code and other files of the repository contain.

A marker is a comment on a line of its own:

- ``<!-- insert section: README.md: Install -->``: the text below that heading, up to the next heading
- ``<!-- insert components: sampler -->``: the built-in components of a role, with their options
- ``<!-- insert options: map -->``: the options of a recipe's table that is not a role
- ``<!-- insert recipes -->``: the built-in recipes
- ``<!-- insert commands -->``: all commands with their options
- ``<!-- insert api: models.recipes errors -->``: the names that ``patchcore_plugin`` exports from these modules and
  packages; modules after ``except`` are left out
- ``<!-- insert exports: evaluation -->``: the names that only this package exports
- ``<!-- insert distributions: backbones -->``: the distributions in that folder
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from patchcore_plugin.cli import command_line
from patchcore_plugin.models.recipes import Map, Preprocessing, Recipe
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.options import describe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FROM_ELSEWHERE = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages of the site and the files of the repository that they show; those of the distributions are added."""
FOLDERS = ("backbones", "examples")
"""Folders with distributions."""

MARKER = re.compile(r"^<!-- insert ([a-z]+)(?:: (.+?))? -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~)")


def distributions(*folders: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path of the README and the [project] table of each distribution in these folders."""
    for folder in folders:
        for path in sorted(ROOT.glob(f"{folder}/*/pyproject.toml")):
            table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
            yield path.with_name("README.md").relative_to(ROOT).as_posix(), table


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the distributions to the navigation."""
    pages = [{table["name"]: _page_of(readme)} for readme, table in distributions(*FOLDERS)]
    config.nav = [*(config.nav or [])[:-1], {"Distributions": pages}, *(config.nav or [])[-1:]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the repository outside docs/."""
    for page, source in _pages().items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the markers of a page and adapt its links to the site."""
    uri = page.file.src_uri
    source = _pages().get(uri, f"docs/{uri}")
    places = {f"docs/{file.src_uri}": file.src_uri for file in files}
    places |= {path: page_uri for page_uri, path in _pages().items()} | {"README.md": "index.md"}

    def fill(match: re.Match[str]) -> str:
        name, argument = match[1], match[2] or ""
        if name == "section":
            file, _, heading = argument.partition(": ")
            return relink(section(file, heading), file, uri, places)
        if name not in FILLERS:
            raise PluginError(f"{uri}: unknown marker {name!r}; use one of: section, {', '.join(FILLERS)}")
        return relink(FILLERS[name](argument), "README.md", uri, places)

    return MARKER.sub(fill, relink(markdown, source, uri, places))


def section(file: str, heading: str) -> str:
    """Return the text of a file below a heading, up to the next heading of any level."""
    lines: list[str] | None = None
    fenced = False
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        fenced ^= FENCE.match(line) is not None
        if line.startswith("#") and not fenced:
            if lines is not None:
                break
            if line.lstrip("#").strip() == heading:
                lines = []
        elif lines is not None:
            lines.append(line)
    if lines is None:
        raise PluginError(f"{file} has no heading {heading!r}")
    return "\n".join(lines).strip()


def relink(markdown: str, source: str, uri: str, places: dict[str, str]) -> str:
    """Return text of the file `source` with its links adapted to the page `uri`.

    Links to files that are on the site become links to their pages, other files of the repository become paths.
    Links to missing files are not changed, so that the strict build reports them.
    """

    def adapt(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in places:
            return f"{mark}[{text}]({posixpath.relpath(places[path], posixpath.dirname(uri) or '.')}{anchor})"
        if not (ROOT / path).exists():
            return match[0]
        return f"`{path}`" if text.strip("`") in (path, PurePosixPath(path).name) else f"{text} (`{path}`)"

    return LINK.sub(adapt, markdown)


def components(role: str) -> str:
    """Return the built-in components of a role, grouped by options."""
    by_options: dict[type[Any], list[Any]] = {}
    for component in Host(entry_points=False).components(role):
        by_options.setdefault(component.spec.config, []).append(component.spec)
    parts = []
    for config, specs in by_options.items():
        parts.append("### " + ", ".join(f"`{spec.name}`" for spec in specs))
        if len(specs) == 1:
            parts.append(_sentence(specs[0].summary))
        else:
            parts.append("\n".join(f"- `{spec.name}`: {spec.summary}" for spec in specs))
        parts.append(_options(config, f"{role}."))
    return "\n\n".join(parts)


def options(part: str) -> str:
    """Return the options of a recipe's table that is not a role."""
    return _options({"preprocessing": Preprocessing, "map": Map}[part], f"{part}.")


def recipes(_: str) -> str:
    """Return summary and file of the built-in recipes."""
    parts = []
    for name in Recipe.names():
        text = (ROOT / "patchcore_plugin" / "models" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        parts.append(f"### `{name}`\n\n{_sentence(Recipe.load(name).summary)}\n\n```toml\n{text.strip()}\n```")
    return "\n\n".join(parts)


def commands(_: str) -> str:
    """Return summary, usage, arguments and options of every command."""
    root = typer.main.get_command(command_line)
    return "\n\n".join(_command(root, None, "patchcore"))


def api(modules: str) -> str:
    """Return directives for the names that `patchcore_plugin` exports from these modules."""
    included, _, excluded = (tuple(part.split()) for part in modules.partition(" except "))
    names = [
        name
        for name, module in _exports("").items()
        if f"{module}.".startswith(tuple(f"{prefix}." for prefix in included))
        and not f"{module}.".startswith(tuple(f"{prefix}." for prefix in excluded))
    ]
    return "\n\n".join(f"::: patchcore_plugin.{name}" for name in names)


def exports(package: str) -> str:
    """Return directives for the names that only this package exports."""
    top_level = _exports("")
    names = [f"{module}.{name}" for name, module in _exports(package).items() if name not in top_level]
    return "\n\n".join(f"::: patchcore_plugin.{package}.{name}" for name in names)


def list_distributions(folder: str) -> str:
    """Return the distributions in a folder, with links to their pages."""
    rows = [(f"[{table['name']}]({readme})", table.get("description", "")) for readme, table in distributions(folder)]
    return _table(("Distribution", "Summary"), rows)


FILLERS: dict[str, Callable[[str], str]] = {
    "components": components,
    "options": options,
    "recipes": recipes,
    "commands": commands,
    "api": api,
    "exports": exports,
    "distributions": list_distributions,
}


def _pages() -> dict[str, str]:
    """Return the files of the repository that are pages, by page."""
    return {**FROM_ELSEWHERE, **{_page_of(readme): readme for readme, _ in distributions(*FOLDERS)}}


def _exports(package: str) -> dict[str, str]:
    """Return the names that a package imports from its modules, sorted, with their modules."""
    path = ROOT / "patchcore_plugin" / package / "__init__.py"
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
    names = {alias.name: str(node.module) for node in imports for alias in node.names}
    return dict(sorted(names.items(), key=lambda pair: pair[0].lower()))


def _page_of(readme: str) -> str:
    return f"distributions/{PurePosixPath(readme).parent.name}.md"


def _command(command: Any, parent: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"## `{context.command_path}`"
    yield _sentence(command.help)
    pieces = [piece.replace("{", "").replace("}", "").upper() for piece in command.collect_usage_pieces(context)]
    yield f"```text\n{' '.join([context.command_path, *pieces])}\n```"
    rows = []
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) and parameter.name != "help":
            meaning, _, limits = record[1].rstrip("]").partition("  [")
            rows.append((f"`{record[0]}`", meaning, limits.removeprefix("default: ")))
    if rows:
        yield _table(("Argument or option", "Meaning", "Default"), rows)
    for child, subcommand in getattr(command, "commands", {}).items():
        yield from _command(subcommand, context, child)


def _options(config: type[Any], prefix: str) -> str:
    rows = [
        (f"`{prefix}{option.name}`", option.meaning, f"`{option.default}`", option.type) for option in describe(config)
    ]
    return _table(("Option", "Meaning", "Default", "Type"), rows) if rows else "No options."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in [columns, ["---"] * len(columns), *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()) if text.startswith("`") else " ".join(text.split()).replace("|", "&#124;")


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
