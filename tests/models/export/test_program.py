"""A model as one torch module that torch.export can trace."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import patchcore_plugin as pp
from patchcore_plugin.data.images import to_unit
from patchcore_plugin.models.export.program import Program, _rounded_quotient, interpolation
from patchcore_plugin.plugins.builtin import _export_modules
from tests.models.exports import CASES, HOST, SIZES, draw, fitted_model


@pytest.mark.parametrize("antialias", [True, False])
def test_interpolation_is_that_of_torch_and_opencv(antialias: bool) -> None:
    rng = np.random.default_rng(0)
    for count, size in ((5, 5), (7, 19), (19, 7), (100, 13), (13, 100), (64, 32), (1, 4), (33, 1), (3000, 256)):
        values = rng.random((count, 5), dtype=np.float32)
        rows = interpolation(torch.arange(size), torch.tensor(size), count, antialias=antialias)
        if antialias:
            image = torch.from_numpy(values)[None, None]
            expected = nn.functional.interpolate(image, (size, 5), mode="bilinear", antialias=True)[0, 0].numpy()
        else:
            expected = cv2.resize(values, (5, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose((rows @ torch.from_numpy(values)).numpy(), expected, atol=1e-5)


def test_quotients_are_rounded_like_in_python() -> None:
    product, divisor = torch.meshgrid(torch.arange(200), torch.arange(1, 30), indexing="ij")
    expected = [
        [round(int(a) / int(b)) for a, b in zip(*row, strict=True)] for row in zip(product, divisor, strict=True)
    ]
    assert _rounded_quotient(product, divisor).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "ensemble"])
def test_the_program_has_the_outputs_of_the_detector(case: str) -> None:
    model = fitted_model(case)
    program = Program(model.members).eval()
    for size in SIZES:
        images = [draw(100 + number, size) for number in range(3)]
        with torch.inference_mode():
            output = program(torch.from_numpy(np.stack([to_unit(image) for image in images])))
        for number, expected in enumerate(model.predict(images)):
            assert float(output["score"][number]) == pytest.approx(expected.score, rel=1e-4)
            assert ("map" in output) == (expected.anomaly_map is not None)
            if expected.anomaly_map is not None:
                scale = float(np.ptp(expected.anomaly_map))
                np.testing.assert_allclose(output["map"][number], expected.anomaly_map, rtol=0, atol=1e-4 * scale)
            assert ("nearest" in output) == (expected.nearest is not None)
    assert ("member" in output) == (case == "ensemble")


@pytest.mark.parametrize("rows", [1, 2, 5, 300])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_rows_far_from_zero_and_in_several_blocks(
    rows: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_export_modules, "ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(rows, 12, generator=generator) + offset
    bank[rows // 2 :] = bank[: rows - rows // 2].clone()  # copies: ties
    patches = pp.Patches(torch.randn(3, 4, 5, 12, generator=generator) + offset)
    scorer: Any = HOST.create("scorer", "knn")
    scorer.fit(pp.MemoryBank(bank, torch.zeros(rows, 3, dtype=torch.int64)))
    expected, output = scorer(patches), scorer.export_module()(patches)
    tolerance = 1e-5 if offset else 1e-6
    torch.testing.assert_close(output.image, expected.image, rtol=tolerance, atol=0)
    torch.testing.assert_close(output.map, expected.map, rtol=tolerance, atol=0)
    assert torch.equal(bank[output.nearest], bank[expected.nearest])
