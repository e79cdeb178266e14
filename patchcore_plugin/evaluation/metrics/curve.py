"""Curves such as ROC: points, area, and a reduced copy for drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points joined by straight lines.

    Parameters
    ----------
    x
        Abscissae in ascending order, float64 [P].
    y
        Ordinates, float64 [P].

    Examples
    --------
    >>> curve = Curve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.5, 1.0]))
    >>> curve.area(), curve.area(0.5)
    (0.75, 0.3125)
    """

    x: FloatArray
    y: FloatArray

    def area(self, limit: float = 1.0) -> float:
        """Return the area under the curve up to an abscissa.

        Parameters
        ----------
        limit
            Right end of the area. The curve is interpolated linearly there.

        Returns
        -------
        float
            Trapezoidal area, not divided by `limit`.
        """
        end = int(np.searchsorted(self.x, limit, side="right"))
        x, y = self.x[:end], self.y[:end]
        if end < len(self.x):
            share = (limit - x[-1]) / (self.x[end] - x[-1])
            x = np.append(x, limit)
            y = np.append(y, y[-1] + share * (self.y[end] - y[-1]))
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)

    def thin(self, points: int = 200) -> Curve:
        """Return a copy with fewer points, for drawing.

        The points are spread evenly along the curve. The first and the last point are kept, and so are both ends of
        a jump, so that a step function stays one.

        Parameters
        ----------
        points
            Approximate number of points. A curve with no more points is returned unchanged.

        Returns
        -------
        Curve
            A subset of the points.
        """
        if len(self.x) <= points:
            return self
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y)))])
        after = np.searchsorted(length, np.linspace(0.0, length[-1], max(points // 2, 2)))
        after = np.minimum(after, len(length) - 1)
        indices = np.unique(np.concatenate([[0], np.maximum(after - 1, 0), after, [len(length) - 1]]))
        return Curve(self.x[indices], self.y[indices])
