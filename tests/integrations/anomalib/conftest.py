from __future__ import annotations

from pathlib import Path

# Imported first, because it silences the warnings of anomalib's import.
from patchcore_plugin.integrations.anomalib import PluginPatchcore

# isort: split
import pytest

from tests.integrations.anomalib.engines import SMALL, engine, folder


@pytest.fixture(scope="session")
def fitted_model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PluginPatchcore, Path]:
    """Return a model of `SMALL`, and its checkpoint."""
    model, used = PluginPatchcore(**SMALL), engine(tmp_path_factory.mktemp("fitted"))
    used.fit(model=model, datamodule=folder(dataset))
    assert used.best_model_path is not None
    return model, Path(used.best_model_path)
