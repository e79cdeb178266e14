"""Imports: listings and help import no heavy library, and importing the package changes no global state."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib.metadata import version
from typing import Any

import pytest

import patchcore_plugin as pp

HEAVY = ("torch", "torchvision", "sklearn", "cv2", "PIL")

SCRIPT = """
    import contextlib, io, json, sys

    def command(*arguments):
        from patchcore_plugin.cli import main

        sys.argv = ["patchcore", *arguments]
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                main()
            except SystemExit as ended:
                return f"exit {ended.code}: {output.getvalue()}"

    def heavy():
        return sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY))

    HEAVY = json.loads(sys.argv[1])
    report = []
"""


def run_script(script: str) -> Any:
    """Run a script after `SCRIPT` in a new process, and return its variable `report`."""
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(script) + "\nprint(json.dumps(report))"
    command = [sys.executable, "-W", "error", "-c", code, json.dumps(HEAVY)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.mark.e2e
def test_help_and_listings_import_no_heavy_library() -> None:
    report = run_script(
        """
        def step(name, text):
            report.append([name, heavy(), str(text)])

        step("start", "")
        import patchcore_plugin as pp
        step("import", "")
        import patchcore_plugin.plugins.testing
        step("conformance checks", "")
        host = pp.Host()
        step("names", [host.names(role) for role in ("backbone", "aggregator", "sampler", "scorer")])
        host.configure("sampler", "greedy-coreset", {"ratio": 0.5})
        step("configure", "")
        pp.Recipe.load("patchcore").resolve(host, seed=0)
        step("resolve", "")
        for arguments in (
            ["--help"],
            ["--version"],
            ["fit", "--help"],
            ["plugins", "list"],
            ["plugins", "show", "wide_resnet50"],
            ["recipes", "list"],
            ["recipes", "show", "patchcore"],
        ):
            step(" ".join(arguments), command(*arguments))
        """
    )
    assert [[name, heavy] for name, heavy, _ in report if heavy] == []
    outputs = {name: text for name, _, text in report}
    assert "efficientnet-lite0" in outputs["names"]
    assert "wide_resnet50" in outputs["names"]
    assert {name: text for name, text in outputs.items() if "Error" in text} == {}
    assert all(text.startswith("exit 0: ") for text in list(outputs.values())[6:])


@pytest.mark.e2e
def test_running_the_package_imports_no_heavy_library() -> None:
    report = run_script(
        """
        import runpy

        sys.argv = ["patchcore", "--version"]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                runpy.run_module("patchcore_plugin", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                report = [ended.code, output.getvalue(), heavy()]
        """
    )
    assert report == [0, f"patchcore-plugin {version('patchcore-plugin')}\n", []]


@pytest.mark.e2e
def test_misspelt_names_fail_before_heavy_imports() -> None:
    report = run_script(
        """
        import os, tempfile

        with tempfile.TemporaryDirectory() as folder:
            open(os.path.join(folder, "image.png"), "w").close()
            for change in (["--backbone", "resnet19"], ["--set", "sampler.ratoi=1"], ["--recipe", "x"]):
                output = command("fit", folder, "--out", os.path.join(folder, "m"), *change)
                report.append([change[1], heavy(), output])
        """
    )
    assert [[name, heavy] for name, heavy, _ in report if heavy] == []
    assert all(output.startswith("exit 1: patchcore: ") for _, _, output in report)


@pytest.mark.e2e
def test_heavy_imports_are_detected() -> None:
    assert run_script("import cv2\nreport = heavy()") == ["cv2"]


@pytest.mark.e2e
def test_importing_changes_no_global_state() -> None:
    """Environment, random states, threads and torch settings belong to the caller."""
    before, after = run_script(
        """
        import locale, logging, os, pathlib, random, signal, warnings
        from importlib import import_module
        import cv2, numpy, sklearn, torch, torchvision, safetensors.torch

        def state():
            return {
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "path": sys.path,
                "locale": locale.setlocale(locale.LC_ALL),
                "Python's random state": str(random.getstate()),
                "numpy's random state": str(numpy.random.get_state()),
                "torch's random state": torch.get_rng_state().tolist(),
                "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()],
                "dtype": str(torch.get_default_dtype()),
                "gradients": torch.is_grad_enabled(),
                "precision": torch.get_float32_matmul_precision(),
                "determinism": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark],
                "numpy's errors": numpy.geterr(),
                "warnings": [str(entry) for entry in warnings.filters],
                "log handlers": str(logging.getLogger().handlers),
                "signals": str([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]),
                "excepthook": str(sys.excepthook),
            }

        import jinja2, nicegui, pydantic, pluggy, rich, typer, rich.progress
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
        report.append(state())
        import patchcore_plugin as pp
        root = pathlib.Path(pp.__file__).parent
        for path in root.rglob("*.py"):
            name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
            # This module imports anomalib and so Lightning, which sets an environment variable.
            if not name.startswith("patchcore_plugin.integrations.anomalib"):
                import_module(name)
        pp.Host()
        report.append(state())
        report = json.loads(json.dumps(report))
        """
    )
    assert {name for name in before if before[name] != after[name]} == set()


def test_public_names() -> None:
    assert len(set(pp.__all__)) == len(pp.__all__)
    assert set(pp.__all__) <= set(dir(pp))
    for name in pp.__all__:
        assert getattr(pp, name).__class__ is not None
    assert pp.Detector.__module__ == "patchcore_plugin.models.detector"
    assert pp.Prediction.__module__ == "patchcore_plugin.models.prediction"


def test_public_names_of_the_contract() -> None:
    names = ["Host", "Detector", "Recipe", "Prediction", "Patches", "MemoryBank", "Scores", "hookimpl"]
    specs = [f"{role.capitalize()}Spec" for role in ("backbone", "aggregator", "sampler", "scorer")]
    assert {*names, *specs} <= set(pp.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError) as error:
        pp.Detectr  # noqa: B018
    assert "no attribute 'Detectr'" in str(error.value)


def test_every_error_is_a_patchcore_error() -> None:
    errors = [name for name in pp.__all__ if name.endswith("Error")]
    assert len(errors) == 10
    assert all(issubclass(getattr(pp, name), pp.PatchcoreError) for name in errors)
