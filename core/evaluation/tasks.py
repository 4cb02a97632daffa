"""How each task is evaluated: what the model is asked, what is measured, and the naive baselines beside it.

``EVALUATORS`` maps the name of a task to a function from a bench and the selected records to an ``Outcome``. The
tasks that write stand in ``reading``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
from PIL import Image as PILImage

from core.data.records import Record
from core.evaluation import baselines as naive
from core.evaluation import metrics
from core.evaluation.bench import EXAMPLES, Bench, Example, Outcome, Panel, Picture, patients_of, row, scored
from core.evaluation.features import SmallClassifier
from core.evaluation.reading import report, vqa

THRESHOLD = 128
"""Grey value from which a pixel of a mask lies inside."""
DRAWS, WIDE = 200, 256
"""Bootstrap draws of a distance, a tenth of them for features wider than ``WIDE``: its cost grows with their cube."""
MOST_TARGETS = 64
"""Training targets in one state that its colours are learned from."""
Transfer = Callable[[Picture, Record], Picture]


# Out of a caption ----------------------------------------------------------------------------------------------------


def text_to_image(bench: Bench, records: list[Record]) -> Outcome:
    """Captions: how far the drawn images lie from the real ones, and whether their modality is recognised."""
    drawn, real = [output.image for output in bench.run(records)], [bench.target(record) for record in records]
    outcome = Outcome(examples=_shown(records, drawn, "real", real))
    baselines = {}
    if train := bench.train["text_to_image"]:
        mean = naive.MeanImage().fit(bench.target(record) for record in train)
        baselines = {"mean training image": [mean.image()] * len(records)}
    _add_distance(outcome, bench, "gFID to the real images", drawn, baselines, real, records)
    network = bench.modality_network
    if network is None:
        outcome.notes.append("modality recognition: the training images show fewer than two modalities")
        return outcome
    truths = [record.modality for record in records]
    naives = {name: _hits(network, images, truths) for name, images in baselines.items()}
    own, ceiling = _hits(network, drawn, truths), _hits(network, real, truths)
    outcome.rows.append(scored("text_to_image", "modality recognition", own, naives, records, seed=bench.seed))
    top = {"name": "the real images", "value": round(float(np.mean(ceiling)), 5)}
    outcome.rows[-1] |= {"ceiling": top, "network": network.name}
    outcome.groups["modality"] = _by_group(truths, {"recognised": own, "recognised, real images": ceiling})
    return outcome


def _hits(network: SmallClassifier, images: Sequence[Picture], truths: Sequence[str]) -> list[float]:
    """1 where the classifier sees what it should, else 0."""
    return [float(seen == truth) for seen, truth in zip(network.predict(images), truths, strict=True)]


def _add_distance(
    outcome: Outcome, bench: Bench, metric: str, drawn: list[Picture], baselines: dict[str, list[Picture]],
    real: list[Picture], records: list[Record],
) -> None:  # fmt: skip
    """A row of the Fréchet distance to one real image for each record, or a note why there is none."""
    network = bench.network
    if network is None or len(records) < 2:
        reason = "needs two records" if network else "the training images show fewer than two modalities"
        outcome.notes.append(f"{metric}: {reason}")
        return
    reference = network.features(real)
    draws = DRAWS if reference.shape[1] <= WIDE else DRAWS // 10

    def distance(images: list[Picture]) -> metrics.Interval:
        given = network.features(images)
        found = metrics.bootstrap_statistic(
            patients_of(records), lambda i: metrics.frechet(given[i], reference[i]), draws, bench.seed
        )
        return replace(found, low=max(0.0, found.low))  # the interval is moved by a bias; no distance is negative

    naives = {name: distance(images) for name, images in baselines.items()}
    task = records[0].sub_task_type
    outcome.rows.append(row(task, metric, distance(drawn), naives, records, unit="", higher=False))
    outcome.rows[-1]["network"] = network.name


# Out of an image -----------------------------------------------------------------------------------------------------


def super_resolution(bench: Bench, records: list[Record]) -> Outcome:
    """Against the fine image, beside bicubic interpolation of the coarse one."""
    return _redrawn(bench, records, {"bicubic": lambda picture, _: naive.bicubic(picture)})


def cross_modal(bench: Bench, records: list[Record]) -> Outcome:
    """Against the other sequence, beside the input, and the input with the histogram of a training target."""
    return _transferred(bench, records, stains=False)


def virtual_staining(bench: Bench, records: list[Record]) -> Outcome:
    """Against the section in the other stain, beside the input and the classical stain transfers."""
    return _transferred(bench, records, stains=True)


def _transferred(bench: Bench, records: list[Record], *, stains: bool) -> Outcome:
    """Beside what makes the input look like training targets in the same state, or like all where none is."""
    transfers: dict[str, Transfer] = {"identity": lambda picture, _: naive.identity(picture)}
    if train := bench.train[records[0].sub_task_type]:
        states = {_state(record) for record in records}
        targets = {state: [r for r in train if _state(r) == state][:MOST_TARGETS] for state in states}
        images = {s: [bench.target(r) for r in like or train[:MOST_TARGETS]] for s, like in targets.items()}
        palettes = {state: _mosaic(pictures) for state, pictures in images.items()}
        transfers["histogram matching"] = lambda picture, r: naive.match_histogram(picture, palettes[_state(r)])
        for kind in (naive.Reinhard, naive.Macenko) if stains else ():
            fitted = {state: kind().fit(pictures) for state, pictures in images.items()}
            transfers[kind.__name__] = lambda picture, r, fitted=fitted: fitted[_state(r)].apply(picture)
    return _redrawn(bench, records, transfers)


def _state(record: Record) -> str:
    """What the output should be: a stain, a sequence, a structure."""
    return record.label or record.instruction


def _mosaic(pictures: list[Picture]) -> Picture:
    """The pictures in one, as large as each other, for the histogram of all."""
    tiles = [np.asarray(picture.resize((64, 64), PILImage.Resampling.NEAREST)) for picture in pictures]
    return PILImage.fromarray(np.concatenate(tiles))


def _redrawn(bench: Bench, records: list[Record], transfers: dict[str, Transfer]) -> Outcome:
    """PSNR and SSIM against the reference at the size that the model drew, for the model and for the transfers."""
    drawn, task = [output.image for output in bench.run(records)], records[0].sub_task_type
    references = [bench.target(record) for record in records[:EXAMPLES]]
    outcome = Outcome(examples=_shown(records, drawn, "reference", references, bench))
    scores = {metric: {name: [] for name in ("model", *transfers)} for metric in ("PSNR", "SSIM")}
    for record, image in zip(records, drawn, strict=True):
        picture, truth = bench.inputs(record)[0], _pixels(bench.target(record), image.size)
        for name, candidate in {"model": image, **{k: f(picture, record) for k, f in transfers.items()}}.items():
            given = _pixels(candidate, image.size)
            scores["PSNR"][name].append(metrics.psnr(given, truth))
            scores["SSIM"][name].append(metrics.ssim(given, truth))
    for metric, unit in (("PSNR", "dB"), ("SSIM", "")):
        own = scores[metric].pop("model")
        outcome.rows.append(scored(task, metric, own, scores[metric], records, unit, seed=bench.seed))
    return outcome


def _pixels(image: Picture, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] at the size (width, height), bicubic."""
    return np.asarray(image if image.size == size else image.resize(size, PILImage.Resampling.BICUBIC))


def segmentation(bench: Bench, records: list[Record]) -> Outcome:
    """Masks: overlap and distance of contours at the size that the model drew, beside Otsu's threshold."""
    drawn, train = [output.image for output in bench.run(records)], bench.train["segmentation"]
    otsu = naive.OtsuMask().fit(train, bench.root) if train else None
    masks = {"model": [], "Otsu": []}
    truths = []
    for record, image in zip(records, drawn, strict=True):
        picture = bench.inputs(record)[0].resize(image.size, PILImage.Resampling.BICUBIC)
        masks["model"].append(_inside(image, image.size))
        masks["Otsu"].append(_inside(otsu.mask(record, picture) if otsu else naive.otsu(picture), image.size))
        truths.append(_inside(bench.target(record), image.size))
    references = [bench.target(record) for record in records[:EXAMPLES]]
    outcome = Outcome(examples=_shown(records, drawn, "reference", references, bench))
    columns = {}
    for metric, unit, score in (("Dice", "share", metrics.dice), ("HD95", "px", metrics.hd95)):
        own, other = (list(map(score, masks[name], truths)) for name in ("model", "Otsu"))
        higher = metric == "Dice"
        outcome.rows.append(scored("segmentation", metric, own, {"Otsu": other}, records, unit, higher, bench.seed))
        columns |= {metric: own, f"{metric}, Otsu": other}
    outcome.groups["structure"] = _by_group(list(map(_state, records)), columns)
    return outcome


def _inside(image: Picture, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] at the size (width, height)."""
    return np.asarray(image.convert("L").resize(size, PILImage.Resampling.NEAREST)) >= THRESHOLD


# Out of an image, with an explanation --------------------------------------------------------------------------------


def counterfactual(bench: Bench, records: list[Record]) -> Outcome:
    """Other states: does a classifier see the state, do the images look real, does the text say what changed?"""
    outputs = bench.run(records)
    drawn, inputs = [output.image for output in outputs], [bench.inputs(record)[0] for record in records]
    targets = [bench.target(record) if record.output_img else None for record in records]
    outcome = Outcome(examples=_shown(records, drawn, "reference", targets, bench))
    outcome.examples = [
        replace(e, lines=(("explanation", o.text), ("truth", r.answer)))
        for e, o, r in zip(outcome.examples, outputs, records, strict=False)
    ]
    _add_flips(outcome, bench, records, drawn, inputs)
    real = _real_of(bench, records)
    kept = [i for i, image in enumerate(real) if image is not None]
    own, unchanged, like = ([images[i] for i in kept] for images in (drawn, inputs, real))
    if kept:
        part = [records[i] for i in kept]
        _add_distance(outcome, bench, "FID to real images of the state", own, {"identity": unchanged}, like, part)
    if len(kept) < len(records):
        outcome.notes.append(f"FID: {len(records) - len(kept)} records name a state that no real image has")
    if kept := [i for i, target in enumerate(targets) if target is not None]:
        pairs = [[metrics.psnr(_pixels(a, drawn[i].size), _pixels(targets[i], drawn[i].size))
                  for a in (drawn[i], inputs[i])] for i in kept]  # fmt: skip
        own, unchanged = zip(*pairs, strict=True)
        part = [records[i] for i in kept]
        outcome.rows.append(scored("counterfactual", "PSNR", own, {"identity": unchanged}, part, "dB", seed=bench.seed))
    _add_explanations(outcome, bench, records, [output.text for output in outputs])
    return outcome


def _add_flips(
    outcome: Outcome, bench: Bench, records: list[Record], drawn: list[Picture], inputs: list[Picture]
) -> None:
    """How often a classifier of the modality's states, trained on real images, sees the state that was asked for."""
    flipped: dict[int, tuple[float, float]] = {}
    ceiling, names = [], []
    for modality in sorted({record.modality for record in records}):
        known = [r for r in bench.train["text_to_image"] if r.modality == modality and r.label]
        network, labels = bench.classifier(known, lambda r: r.label), {r.label for r in known}
        kept = [i for i, r in enumerate(records) if r.modality == modality and r.label in labels]
        if network is None or not kept:
            continue
        own, unchanged = (
            _hits(network, [p[i] for i in kept], [records[i].label for i in kept]) for p in (drawn, inputs)
        )
        names.append(network.name)
        flipped |= dict(zip(kept, zip(own, unchanged, strict=True), strict=True))
        seen = [r for r in bench.pool if r.modality == modality and r.label in labels]
        ceiling += _hits(network, [bench.target(r) for r in seen], [r.label for r in seen]) if seen else []
    if len(flipped) < len(records):
        missing = len(records) - len(flipped)
        outcome.notes.append(f"flip rate: {missing} records name a state that no classifier could learn")
    if flipped:
        own, unchanged = zip(*flipped.values(), strict=True)
        part = [records[i] for i in flipped]
        outcome.rows.append(scored("counterfactual", "flip rate", own, {"identity": unchanged}, part, seed=bench.seed))
        outcome.rows[-1]["network"] = ", ".join(names)
        outcome.groups["state"] = _by_group([r.label for r in part], {"flipped": own, "flipped, identity": unchanged})
        if ceiling:
            value = round(float(np.mean(ceiling)), 5)
            outcome.rows[-1]["ceiling"] = {"name": "real images, seen as what they are", "value": value}


def _real_of(bench: Bench, records: list[Record]) -> list[Picture | None]:
    """A real image of each record's state: of the evaluated split, else of training; used in turn."""
    states = {(record.modality, record.label) for record in records}
    turns: dict[tuple[str, str], Iterator[Record]] = {}
    for state in states:
        for source in (bench.train["text_to_image"], bench.pool):
            if found := [r for r in source if (r.modality, r.label) == state]:
                turns[state] = cycle(found)
    own = [turns.get((record.modality, record.label)) for record in records]
    return [bench.target(next(turn)) if turn else None for turn in own]


def _add_explanations(outcome: Outcome, bench: Bench, records: list[Record], texts: list[str]) -> None:
    """ROUGE-L of the text, beside the training explanations that answer blindly."""
    kept = [i for i, record in enumerate(records) if record.answer]
    if not kept:
        outcome.notes.append("explanation: no record")
        return
    part, known = [records[i] for i in kept], [r for r in bench.train["counterfactual"] if r.answer]
    blind = {"majority answer": naive.MajorityAnswer(), "question only": naive.QuestionOnly()} if known else {}
    given = {name: [fitted.answer(r) for r in part] for name, fitted in ((k, b.fit(known)) for k, b in blind.items())}
    given["model"] = [texts[i] for i in kept]
    scores = {k: [metrics.rouge_l(text, r.answer) for text, r in zip(v, part, strict=True)] for k, v in given.items()}
    own = scores.pop("model")
    outcome.rows.append(scored("counterfactual", "ROUGE-L of the text", own, scores, part, seed=bench.seed))


# What they share -----------------------------------------------------------------------------------------------------


def _by_group(keys: Sequence[str], columns: dict[str, Sequence[float]]) -> dict[str, dict]:
    """Means of the columns by group, the largest group first."""
    members: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    return {
        key: {"n": len(m), **{name: round(float(np.mean([v[i] for i in m])), 5) for name, v in columns.items()}}
        for key, m in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def _shown(
    records: list[Record], drawn: Sequence[Picture], title: str, truths: Sequence[Picture | None],
    bench: Bench | None = None,
) -> list[Example]:  # fmt: skip
    """The first records for the page: input (where there is a bench to open it), drawn, truth."""
    examples = []
    for record, image, truth in list(zip(records, drawn, truths, strict=False))[:EXAMPLES]:
        panels = [Panel("input", bench.inputs(record)[0])] if bench else []
        panels.append(Panel("drawn", image, drawn=True))
        panels += [Panel(title, truth)] if truth else []
        examples.append(Example(record.instruction, tuple(panels)))
    return examples


EVALUATORS: dict[str, Callable[[Bench, list[Record]], Outcome]] = {
    "vqa": vqa,
    "report": report,
    "text_to_image": text_to_image,
    "segmentation": segmentation,
    "super_resolution": super_resolution,
    "virtual_staining": virtual_staining,
    "cross_modal": cross_modal,
    "counterfactual": counterfactual,
}
