"""Parts with a defect, and the place of the defect."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .part import BOLTS, LABEL, LIGHT, SINK, Array, Flange, Part, blend, to_float32

_LIQUIDS = np.array([[0.22, 0.15, 0.08], [0.13, 0.15, 0.11], [0.26, 0.14, 0.07]])


def draw_part(flange: Flange, rng: np.random.Generator, kind: str, index: int) -> Part:
    """Draw one part.

    Parameters
    ----------
    flange : Flange
        The product.
    rng : numpy.random.Generator
        Source of the marks on the face, and of the place and shape of the defect.
    kind : str
        "good" or one of `DEFECTS`.
    index : int
        Selects the variant of a kind that has several.

    Returns
    -------
    Part
    """
    marks = cv2.GaussianBlur(rng.standard_normal((1024, 1)), (1, 0), sigmaX=1, sigmaY=5)[:, 0]
    colors, defect = flange.good, np.zeros_like(flange.r)
    if kind == "missing_hole":
        missing = int(rng.integers(len(BOLTS)))
        colors = flange.draw((i for i in range(len(BOLTS)) if i != missing), flange.text)
        defect = flange.disc(*BOLTS[missing], SINK)
    elif kind == "misprint":
        text = _draw_misprint(flange, rng, index % 4)
        colors = flange.draw(range(len(BOLTS)), text)
        changed = (np.abs(text - flange.text) > 0.25).astype(np.float32)
        reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(flange.pixels(0.07)) | 1,) * 2)
        defect = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, reach).astype(np.float32)
    wear = 0.035 * marks[np.clip(flange.r * 800, 0, 1023).astype(np.int32)] * flange.bare
    part = Part(colors + wear.astype(np.float32)[..., None], flange.disc(0, 0, 1), defect)
    if kind in _PAINTERS:
        _PAINTERS[kind](flange, part, rng)
    return part


def _draw_misprint(flange: Flange, rng: np.random.Generator, variant: int) -> Array:
    """Return the cover [S, S] of a wrong text."""
    ink = flange.text
    if variant == 0:
        # Printed twice on a label that moved.
        move = np.array([[1, 0, flange.pixels(0.05)], [0, 1, flange.pixels(-0.045)]])
        ink = np.maximum(ink, 0.85 * cv2.warpAffine(ink, move, ink.shape[::-1]))
    elif variant == 1:
        # Half of the text is missing.
        ink = ink * (flange.x < rng.uniform(-0.12, 0.08))
    elif variant == 2:
        # Smeared while wet.
        smear = 1.9 * cv2.blur(ink, (int(flange.pixels(0.17)), 1), anchor=(0, 0))
        ink = np.where(flange.x > rng.uniform(-0.1, 0.05), np.minimum(smear, 1), ink)
    else:
        # Upside down.
        middle = (LABEL[1] + LABEL[3]) / 2
        move = np.array([[-1, 0, flange.side - 1], [0, -1, flange.side - 1 + 2 * flange.pixels(middle)]])
        ink = cv2.warpAffine(ink, move, ink.shape[::-1])
    return to_float32(ink)


def _scratch(flange: Flange, part: Part, rng: np.random.Generator) -> None:
    heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.95)
    centre = rng.uniform(0.42, 0.6) * np.array([np.cos(heading), np.sin(heading)])
    across = heading + np.pi / 2 + rng.uniform(-0.5, 0.5)
    t = np.linspace(-0.5, 0.5, 24)[:, None]
    bend = rng.uniform(-0.5, 0.5)
    along, aside = np.array([np.cos(across), np.sin(across)]), np.array([-np.sin(across), np.cos(across)])
    points = centre + length * t * along + bend * (t**2 - 0.08) * aside
    points *= np.minimum(1, 0.9 / np.linalg.norm(points, axis=1, keepdims=True))
    # The pressure varies along the scratch and is lowest at its ends.
    knots = rng.uniform(0.65, 1, 9)
    force = np.interp(np.linspace(0, 8, 23), np.arange(9), knots) * np.sin(np.linspace(0.35, np.pi - 0.35, 23))
    width = flange.side / 512 * rng.uniform(3.0, 4.2)
    for shift, level, thick in ((0.009, 0.12, width), (0.0, 0.95, width * 0.75)):
        stroke = np.zeros((flange.side, flange.side), np.uint8)
        path = flange.to_fixed_point(points + shift)
        for first, last, strength in zip(path[:-1], path[1:], np.rint(255 * force), strict=True):
            ends = (first.tolist(), last.tolist())
            cv2.line(stroke, *ends, float(strength), max(1, round(thick)), cv2.LINE_AA, shift=4)
        cover = stroke.astype(np.float32) / 255 * flange.solid
        blend(part.colors, cover, np.array(level))
        part.defect = np.maximum(part.defect, np.minimum(3 * cover, 1))


def _stain(flange: Flange, part: Part, rng: np.random.Generator) -> None:
    heading, distance, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.66), rng.uniform(0.13, 0.19)
    centre = distance * np.array([np.cos(heading), np.sin(heading)])
    color = _LIQUIDS[rng.integers(3)]
    cover = np.zeros_like(flange.r)
    for size in (radius, *rng.uniform(0.02, 0.045, 4)):
        # A pool, and drops around it.
        spread = 0 if size == radius else rng.uniform(1.2, 1.6) * radius
        direction = rng.uniform(0, 2 * np.pi)
        x, y = centre + spread * np.array([np.cos(direction), np.sin(direction)])
        angle = np.arctan2(flange.y - y, flange.x - x)
        edge = np.full_like(flange.r, size)
        for n in (2, 3, 5):
            edge += size * 0.3 / n * rng.uniform(0.4, 1) * np.cos(n * angle + rng.uniform(0, 2 * np.pi))
        inside = edge - np.hypot(flange.x - x, flange.y - y)
        cover = np.maximum(cover, np.clip(inside / 0.022 + 0.5, 0, 1))
    cover = (cover * flange.solid * part.cover).astype(np.float32)
    # Liquids dry darkest at the rim.
    rim = cover - cv2.erode(cv2.GaussianBlur(cover, (0, 0), flange.pixels(0.012)), np.ones((3, 3)))
    blend(part.colors, np.clip(rng.uniform(0.6, 0.72) * cover + 0.5 * rim, 0, 0.9), color)
    part.defect = np.maximum(part.defect, cover)


def _chip(flange: Flange, part: Part, rng: np.random.Generator) -> None:
    heading, wide, deep = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.3), rng.uniform(0.14, 0.2)
    turned = (flange.angle - heading + np.pi) % (2 * np.pi) - np.pi
    knots = np.linspace(-1, 1, 9)
    jags = np.sqrt(1 - knots**2) * rng.uniform(0.75, 1.05, 9)
    depth = deep * np.interp(turned / wide, knots, jags, left=0, right=0)
    broken, missing = (
        np.clip((flange.r - 1 + share * depth) * flange.pixels(1) + 0.5, 0, 1) * (depth > 0) for share in (1, 0.66)
    )
    grain = cv2.GaussianBlur(rng.standard_normal(flange.r.shape), (0, 0), flange.side / 250)
    fracture = 0.6 - 0.22 * np.cos(heading - LIGHT) + 0.55 * grain
    blend(part.colors, broken, fracture[..., None])
    part.defect = np.maximum(part.defect, (broken * part.cover).astype(np.float32))
    part.cover *= (1 - missing).astype(np.float32)


_PAINTERS: dict[str, Callable[[Flange, Part, np.random.Generator], None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "chip": _chip,
}

DEFECTS = ("chip", "misprint", "missing_hole", "scratch", "stain")
"""Kinds of defects, and names of their folders."""
