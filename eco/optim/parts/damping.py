"""Levenberg-Marquardt damping (Marquardt 1963; Martens, ICML 2010): how far a quadratic model of a loss is trusted."""

BROKEN, KEPT = 0.25, 0.75
"""Below the first share of the promised reduction a step went too far, above the second it could have gone farther."""


class Damping:
    """What is added to the curvature, between `least` and `most`; `judge` moves it.

    up, down: factors of a rise (> 1) and of a fall (< 1).
    """

    def __init__(self, value: float, *, least: float, most: float, up: float, down: float) -> None:
        self.value = value
        self._least, self._most, self._up, self._down = least, most, up, down

    def judge(self, linear: float, quadratic: float, actual: float) -> float | None:
        """Compares a step d with what the model promised, -(linear + quadratic); returns the ratio of the two.

        linear: g.d of the loss's gradient g. quadratic: 1/2 d.H.d. actual: loss before less loss after.

        A step uphill, which momentum makes now and then, promised nothing and says nothing of the model: None. One
        whose quadratic part outweighs the linear overshot by the model's own account: the damping rises, None.
        """
        if linear >= 0:
            return None
        promised = -(linear + quadratic)
        if actual < BROKEN * promised or promised <= 0:
            self.value = min(self.value * self._up, self._most)
        elif actual > KEPT * promised:
            self.value = max(self.value * self._down, self._least)
        return actual / promised if promised > 0 else None
