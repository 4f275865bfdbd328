"""How right an answer is, from 0 to 1, and what to say about it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dspy

from fleet_rlm_jupyter.domain.program import MetricName

SHOWN_CHARS = 1000

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Judgement(NamedTuple):
    """A score from 0 to 1, and the reason in words that a model can learn from."""

    score: float
    feedback: str


class Metric:
    """The weighted mean of metrics over the expected fields.

    `judge` gives both; called as DSPy calls a metric it gives the score, and where one predictor is asked about, as
    GEPA does, score and feedback.
    """

    def __init__(self, weights: Mapping[MetricName, float], tolerance: float = 1e-6) -> None:
        self._weights = dict(weights)
        self._tolerance = tolerance
        self._kinds: dict[MetricName, Callable[[str, str], float]] = {
            "exact": lambda expected, found: float(expected.strip() == found.strip()),
            "caseless": lambda expected, found: float(_words(expected) == _words(found)),
            "contains": _contains,
            "coverage": _coverage,
            "number": self._number,
        }

    def __call__(
        self, gold: Mapping[str, Any], pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        labels = gold.labels() if isinstance(gold, dspy.Example) else gold
        judged = self.judge({name: labels[name] for name in labels}, pred)
        return judged.score if pred_name is None else dspy.Prediction(score=judged.score, feedback=judged.feedback)

    def judge(self, expected: Mapping[str, Any], found: Any) -> Judgement:
        """How right the fields of `found` are, a mapping or a prediction; one that is missing is wrong."""
        scores: list[float] = []
        said: list[str] = []
        for name, value in expected.items():
            wanted, got = _text(value), _text(found.get(name))
            each: dict[MetricName, float] = {kind: self._kinds[kind](wanted, got) for kind in self._weights}
            score = self._weighted(each)
            scores.append(score)
            if score == 1.0:
                said.append(f"{name} is right")
            else:
                parts = ", ".join(f"{kind} {part:.2f}" for kind, part in each.items())
                said.append(f"{name} should be {_shown(wanted)} and is {_shown(got)} ({parts})")
        return Judgement(clamped(sum(scores) / len(scores)) if scores else 0.0, "; ".join(said))

    def _weighted(self, each: Mapping[MetricName, float]) -> float:
        total = math.fsum(self._weights.values())
        return clamped(math.fsum(self._weights[kind] * part for kind, part in each.items()) / total)

    def _number(self, expected: str, found: str) -> float:
        wanted, got = _last_number(expected), _last_number(found)
        if wanted is None or got is None:
            return 0.0
        is_near = abs(wanted - got) <= self._tolerance * max(1.0, abs(wanted))
        return float(wanted == got or (is_near and math.isfinite(wanted)))  # to infinity nothing is near


def clamped(score: float) -> float:
    """`score` between 0 and 1; what is no number is 0."""
    return 0.0 if math.isnan(score) else min(1.0, max(0.0, score))


def _contains(expected: str, found: str) -> float:
    wanted = _words(expected)
    return float(" ".join(wanted) in " ".join(_words(found)) if wanted else not found.strip())


def _coverage(expected: str, found: str) -> float:
    wanted = Counter(re.findall(r"\w+", expected.casefold()))
    if not wanted:
        return float(not found.strip())
    return (wanted & Counter(re.findall(r"\w+", found.casefold()))).total() / wanted.total()


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")
