"""The raters of ``benchmarks.feedback_loop``: programs with a rule that stands here, so that everybody knows what there
is to be learned. They stand for no people.

Each looks at an output beside the truth, which the model is not shown: the record's report, or the picture in its full
resolution.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image as PILImage

from core.data.records import Record
from core.evaluation.metrics import rouge_l, ssim

WORDINGS = (
    "What kind of scan am I looking at, and of which body part?",
    "Please name modality and organ.",
    "Tell me what this picture shows.",
    "Which examination is this, and what does it show?",
)
"""Questions that nano was never trained on."""
FILLING = {"of", "the", "and", "a", "an", "findings", "finding", "impression", "view"}
NOT_STATED = "not stated"
SHARPNESS = 0.1
"""How much of it counts beside SSIM."""
ALIKE = 1e-3
"""Scores that lie closer are a tie."""


def words_right(text: str, truth: str) -> float:
    """F1 of the words that mean something: correct ones, and all of them."""
    given, wanted = ({w for w in re.findall(r"[^\W_]+", one.lower()) if w not in FILLING} for one in (text, truth))
    both = len(given & wanted)
    return 2 * both / (len(given) + len(wanted)) if both else 0.0


def house_style(report: str) -> str:
    """A report as this hospital writes it: examination, result and comparison, each under its heading."""
    exam, _, rest = report.partition(". ")
    result = rest.removeprefix("Impression: ").removeprefix("Findings: ").rstrip(".").lower() or NOT_STATED
    return f"Exam: {exam.rstrip('.').lower()}. Result: {result}. Comparison: none."


def in_house_style(text: str, truth: str) -> float:
    """ROUGE-L to the true report in the style of the house."""
    return rouge_l(text, house_style(truth))


def fidelity(drawn: PILImage.Image, truth: PILImage.Image) -> float:
    """SSIM to the source in full resolution, and how much of its sharpness is there (mean gradient, at most 1)."""
    truth = truth.resize(drawn.size, PILImage.Resampling.BICUBIC)
    ours, theirs = (np.asarray(one, np.uint8) for one in (drawn, truth))
    sharp = min(1.0, _gradient(ours) / max(_gradient(theirs), 1e-6))
    return ssim(ours, theirs) + SHARPNESS * sharp


def _gradient(pixels: np.ndarray) -> float:
    grey = pixels.mean(-1)
    return float(np.hypot(*np.gradient(grey)).mean())


@dataclass(frozen=True)
class Rule:
    """What raters of a scenario look at.

    Attributes:
        about: said in a sentence.
        task, kind: of the outputs, and of the project; two outputs are compared, one is corrected.
        samples: answers to a request; those that differ are ranked.
        temperature: of the texts that are rated; the compared versions answer with their own settings.
        score: of an output beside the truth; more is better.
        prompts: of the requests, in turns.
        timesteps: of the pictures that are rated, one number a sample; the compared versions draw with their own.
    """

    about: str
    task: str
    kind: str
    samples: int
    temperature: float
    score: Callable[[object, object], float]
    prompts: tuple[str, ...] = ("",)
    timesteps: tuple[int, ...] = ()


RULES = {
    "text": Rule(
        "Raters prefer the answer whose words are correct and complete (F1 with the record's report), with 10% noise.",
        "vqa", "compare", 4, 1.0, words_right, WORDINGS,
    ),
    "image": Rule(
        f"Raters prefer the picture with more SSIM to the source in full resolution plus {SHARPNESS:g} times its "
        "sharpness, with 10% noise; of two that differ in seed and in timesteps (6 and 3).",
        "super_resolution", "compare", 2, 0.0, fidelity, timesteps=(6, 3),
    ),
    "style": Rule(
        "Raters correct reports into a house style that nobody states, without noise; compared by ROUGE-L to it, with "
        "10% noise.",
        "report", "correct", 1, 0.0, in_house_style,
    ),
}  # fmt: skip


@dataclass
class RaterModel:
    """One rater.

    Attributes:
        rule: what they go by.
        kind: honest; adversarial (always says the opposite); careless (says anything).
        noise: the share of judgements in which an honest one says the opposite.
    """

    rule: Rule
    kind: str = "honest"
    noise: float = 0.1
    draw: random.Random = field(default_factory=random.Random)

    def ranking(self, outputs: list, truth: object) -> dict:
        """The answer to a comparison: the outputs from best to worst, those that are alike together."""
        scores = [self.rule.score(one, truth) for one in outputs]
        if self.kind == "careless":
            scores = [self.draw.random() for _ in outputs]
        elif self.kind == "adversarial" or self.draw.random() < self.noise:
            scores = [-score for score in scores]
        order = sorted(range(len(scores)), key=lambda n: -scores[n])
        groups = [[order[0]]]
        for before, n in pairwise(order):
            if scores[before] - scores[n] < ALIKE:
                groups[-1].append(n)
            else:
                groups.append([n])
        best = groups[0]
        return {"choices": {"overall": best[0] if len(best) == 1 else "tie"}, "ranking": groups}

    def correction(self, truth: str) -> str:
        return house_style(truth)


def truth_of(rule: Rule, record: Record, picture: Callable[[str], PILImage.Image]) -> object:
    """The record's report, or its picture in full resolution."""
    return picture(record.output_img[0]) if rule.task == "super_resolution" else record.answer
