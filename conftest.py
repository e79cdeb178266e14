"""What pytest must know before it collects."""

from __future__ import annotations

from importlib.util import find_spec

# Doctests are looked for in every module, and these cannot be imported where torch comes without triton.
collect_ignore_glob = [] if find_spec("triton") else ["patchcore_plugin/kernels/*/gpu*.py"]
