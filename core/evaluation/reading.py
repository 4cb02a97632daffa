"""How the tasks that write are evaluated: answers, reports, and the control of what the image is needed for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage
from scipy.optimize import linear_sum_assignment

from core.data.records import Record
from core.evaluation import baselines as naive
from core.evaluation import metrics
from core.evaluation.bench import EXAMPLES, Bench, Example, Outcome, Panel, patients_of, plain, scored

TEMPLATES = 12
"""Questions that answers are grouped by: the most frequent ones."""
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Measure:
    """A score of an answer against the truth, over the records that it applies to."""

    name: str
    score: Callable[[str, str], float]
    applies: Callable[[Record], bool] = lambda record: True


def _closed(record: Record) -> bool:
    return metrics.is_closed(record.answer, record.instruction)


def _open(record: Record) -> bool:
    return not _closed(record)


VQA_MEASURES = (
    Measure("closed accuracy", metrics.exact_match, _closed),
    Measure("open recall", metrics.token_recall, _open),
    Measure("open exact match", metrics.exact_match, _open),
    Measure("exact match", metrics.exact_match),
)
REPORT_MEASURES = (
    Measure("ROUGE-L", metrics.rouge_l),
    *(Measure(f"BLEU-{n}", lambda answer, truth, n=n: metrics.bleu(answer, truth, n)) for n in range(1, 5)),
    Measure("METEOR (exact, stem)", metrics.meteor),
)


def vqa(bench: Bench, records: list[Record]) -> Outcome:
    """Questions: beside the most frequent answer, and the most frequent one to the same words."""
    train = bench.train["vqa"]
    baselines = {}
    if train:
        majority, question = naive.MajorityAnswer().fit(train), naive.QuestionOnly().fit(train)
        baselines = {
            "majority answer": [majority.answer(record) for record in records],
            "question only": [question.answer(record) for record in records],
        }
    outcome, answers = _written(bench, records, VQA_MEASURES, baselines)
    top = {question for question, _ in Counter(record.instruction for record in records).most_common(TEMPLATES)}
    asked = [record for record in records if record.instruction in top]
    outcome.groups = {
        "dataset": _grouped(records, lambda r: r.dataset, records, answers, baselines),
        "question": _grouped(asked, lambda r: r.instruction, records, answers, baselines),
    }
    return outcome


def report(bench: Bench, records: list[Record]) -> Outcome:
    """Reports: beside the report of the training image that looks most alike."""
    baselines = {}
    if bench.train["report"]:
        nearest = naive.NearestReport().fit(bench.train["report"], bench.root)
        baselines = {"nearest image's report": [nearest.answer(record, bench.root) for record in records]}
    return _written(bench, records, REPORT_MEASURES, baselines)[0]


def _written(
    bench: Bench, records: list[Record], measures: Sequence[Measure], baselines: dict[str, list[str]]
) -> tuple[Outcome, list[str]]:
    """Rows, the control of what the image is needed for, and examples; with the model's answers."""
    pictures = [bench.inputs(record) for record in records]
    others = swapped(records, bench.seed)
    answers = {
        "image": bench.run(records),
        "blanked": bench.run(records, [[PILImage.new("RGB", p.size, GREY) for p in given] for given in pictures]),
        "swapped": bench.run(records, [pictures[i] for i in others]),
    }
    texts = {name: [output.text for output in outputs] for name, outputs in answers.items()}
    outcome = Outcome()
    for measure in measures:
        kept = [i for i, record in enumerate(records) if measure.applies(record)]
        if not kept:
            outcome.notes.append(f"{measure.name}: no record")
            continue
        part = [records[i] for i in kept]
        task, name = part[0].sub_task_type, measure.name
        values = {k: [measure.score(v[i], records[i].answer) for i in kept] for k, v in (texts | baselines).items()}
        shown = {k: values.pop(k) for k in texts}
        outcome.rows.append(scored(task, name, shown["image"], values, part, seed=bench.seed))
        outcome.controls.append(_control(task, name, shown, part, bench.seed))
    for i, record in enumerate(records[:EXAMPLES]):
        lines = [("answer", texts["image"][i]), ("truth", record.answer)]
        lines += [(k, texts[k][i]) for k in ("blanked", "swapped")] + [(k, v[i]) for k, v in baselines.items()]
        panels = tuple(Panel("input", picture) for picture in pictures[i])
        outcome.examples.append(Example(record.instruction, panels, tuple(lines)))
    return outcome, texts["image"]


def _control(task: str, metric: str, values: dict[str, list[float]], records: list[Record], seed: int) -> dict:
    """The same questions with the image, without it and with another one.

    A drop, in points of 100, has the interval of the difference on the same records, which is narrower than what the
    intervals of both sides suggest.
    """
    patients, scores = patients_of(records), {k: np.asarray(v, dtype=float) for k, v in values.items()}
    lost = {f"{k}_drop": 100 * (scores["image"] - scores[k]) for k in ("blanked", "swapped")}
    means = {k: plain(metrics.bootstrap(v, patients, seed=seed)) for k, v in (scores | lost).items()}
    return {"task": task, "metric": metric, **means, "n": len(records), "patients": len(set(patients))}


def swapped(records: list[Record], seed: int) -> list[int]:
    """For each record the index of the one whose images it is asked about instead: a seeded permutation.

    Nobody keeps their own, unless there is one record. Of all permutations one is taken that changes the most: first
    the image, then the patient, then the answer to the same words (the modality, where the words differ), then the
    modality.
    """

    def differ(key: Callable[[Record], Hashable]) -> np.ndarray:
        """bool [n, n]"""
        numbers: dict[Hashable, int] = {}
        codes = np.array([numbers.setdefault(key(record), len(numbers)) for record in records])
        return codes[:, None] != codes

    modality = differ(lambda r: r.modality)
    answer = np.where(differ(lambda r: r.instruction), modality, differ(lambda r: r.answer))
    image, itself = differ(lambda r: r.input_img), ~np.eye(len(records), dtype=bool)
    strangeness = np.random.default_rng(seed).random((len(records), len(records)))  # decides between equals
    for k, change in enumerate((modality, answer, differ(lambda r: r.patient), image, itself)):
        strangeness += 2 ** (k + 1) * change
    return linear_sum_assignment(strangeness, maximize=True)[1].tolist()


def _grouped(
    records: list[Record], key: Callable[[Record], str], everyone: list[Record], answers: list[str],
    baselines: dict[str, list[str]],
) -> dict[str, dict]:  # fmt: skip
    """Exact match by group, beside the baseline that is best in the group. ``answers`` are those of ``everyone``."""
    place = {record.id: i for i, record in enumerate(everyone)}
    groups: dict[str, list[int]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(place[record.id])

    def share(given: list[str], members: list[int]) -> float:
        return round(float(np.mean([metrics.exact_match(given[i], everyone[i].answer) for i in members])), 5)

    return {
        name: {
            "n": len(members),
            "exact match": share(answers, members),
            "best baseline": max((share(given, members) for given in baselines.values()), default=None),
        }
        for name, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    }
