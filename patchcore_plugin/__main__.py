"""``python -m patchcore_plugin``: the command line, where the program ``patchcore`` is not on the path."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
