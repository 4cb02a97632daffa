"""How each task is evaluated: what the model is asked, what is measured, and the naive baselines beside it.

``EVALUATORS`` maps the name of a task to a function from a bench and the selected records to an ``Outcome``. The
tasks that write stand in ``reading``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
from PIL import Image as PILImage

from core.data.records import Record
from core.evaluation import baselines as naive
from core.evaluation import metrics
from core.evaluation.alignment import LikelihoodScorer
from core.evaluation.bench import EXAMPLES, Bench, Example, Outcome, Panel, Picture, by_group, distant, scored
from core.evaluation.features import ByModality, SmallClassifier
from core.evaluation.reading import report, swapped, vqa

THRESHOLD = 128
"""Grey value from which a pixel of a mask lies inside."""
MOST_TARGETS = 64
"""Training targets in one state that its colours are learned from."""
Transfer = Callable[[Picture, Record], Picture]


# Out of a caption ----------------------------------------------------------------------------------------------------


def text_to_image(bench: Bench, records: list[Record]) -> Outcome:
    """Captions: how far the drawn images lie from the real ones, how well they fit their captions, and whether their
    modality is recognised.
    """
    drawn, real = [output.image for output in bench.run(records)], [bench.target(record) for record in records]
    outcome, baselines = Outcome(examples=_shown(records, drawn, "real", real)), _means(bench, records)
    _add_gfid(outcome, bench, drawn, baselines, real, records)
    _add_alignment(outcome, bench, drawn, baselines, real, records)
    network = bench.modality_network
    if network is None:
        outcome.notes.append("modality recognition: the training images show fewer than two modalities")
        return outcome
    truths = [record.modality for record in records]
    naives = {name: _hits(network, images, truths) for name, images in baselines.items()}
    own, ceiling = _hits(network, drawn, truths), _hits(network, real, truths)
    outcome.rows.append(scored("text_to_image", "modality recognition", own, naives, records, seed=bench.seed))
    outcome.rows[-1] |= {"ceiling": _ceiling("the real images", ceiling), "network": network.name}
    outcome.groups["modality"] = by_group(truths, {"recognised": own, "recognised, real images": ceiling})
    return outcome


def _means(bench: Bench, records: list[Record]) -> dict[str, list[Picture]]:
    """Mean images for the records: the mean of the modalities' means, and the one of the caption's modality."""
    train: dict[str, list[Record]] = {}
    for record in bench.train["text_to_image"]:
        train.setdefault(record.modality, []).append(record)
    if not train:
        return {}
    means = {name: naive.MeanImage().fit(map(bench.target, known)).image() for name, known in train.items()}
    overall = naive.MeanImage().fit(means.values()).image()
    own = [means.get(record.modality, overall) for record in records]
    return {"mean training image": [overall] * len(records), "mean image of the modality": own}


def _add_gfid(
    outcome: Outcome, bench: Bench, drawn: list[Picture], baselines: dict[str, list[Picture]], real: list[Picture],
    records: list[Record],
) -> None:  # fmt: skip
    """The distance to the real images; its floor is what as many real training images of the same modalities get."""
    metric, network = "gFID to the real images", bench.network
    if network is None or len(records) < 2:
        reason = "needs two records" if network else "the training images show fewer than two modalities or labels"
        outcome.notes.append(f"{metric}: {reason}")
        return
    train, modalities = bench.train["text_to_image"], {record.modality for record in records}
    turns = {modality: cycle([r for r in train if r.modality == modality]) for modality in modalities}
    others = [next(turns[record.modality], None) for record in records]
    found = distant("text_to_image", metric, network, drawn, baselines, real, records, bench.seed)
    if None in others:
        outcome.notes.append(f"{metric}: no floor, since training lacks a modality")
    else:
        features = network.features(map(bench.target, others))
        value = round(metrics.frechet(features, network.features(real)), 5)
        found["ceiling"] = {"name": "as many real training images", "value": value}
    outcome.rows.append(found)


def _add_alignment(
    outcome: Outcome, bench: Bench, drawn: list[Picture], baselines: dict[str, list[Picture]], real: list[Picture],
    records: list[Record],
) -> None:  # fmt: skip
    """How well images fit their captions, beside images that were drawn for a caption of another modality."""
    others = [drawn[i] for i in swapped(records, bench.seed)]
    captions = [record.instruction for record in records]
    candidates = {"model": drawn, "real": real, "drawn for another caption": others, **baselines}
    scores = {k: bench.judge.scores(list(zip(v, captions, strict=True))) for k, v in candidates.items()}
    own, top = scores.pop("model"), scores.pop("real")
    unit = "nats" if isinstance(bench.judge, LikelihoodScorer) else ""
    outcome.rows.append(scored("text_to_image", "alignment", own, scores, records, unit, seed=bench.seed))
    outcome.rows[-1] |= {"ceiling": _ceiling("the real images", top), "judge": bench.judged_by}


def _hits(network: SmallClassifier, images: Sequence[Picture], truths: Sequence[str]) -> list[float]:
    """1 where the classifier sees what it should, else 0."""
    return [float(seen == truth) for seen, truth in zip(network.predict(images), truths, strict=True)]


def _ceiling(name: str, values: Sequence[float]) -> dict:
    """What stands beside a row: the mean that real images get."""
    return {"name": name, "value": round(float(np.mean(values)), 5)}


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
    outcome.groups["structure"] = by_group(list(map(_state, records)), columns)
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
    _add_state_distance(outcome, bench, records, drawn, inputs)
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
        network = bench.state_network(modality)
        labels = network.classes if network else ()
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
        outcome.rows[-1]["network"] = "; ".join(names)
        outcome.groups["state"] = by_group([r.label for r in part], {"flipped": own, "flipped, identity": unchanged})
        if ceiling:
            outcome.rows[-1]["ceiling"] = _ceiling("real images, seen as what they are", ceiling)


def _add_state_distance(
    outcome: Outcome, bench: Bench, records: list[Record], drawn: list[Picture], inputs: list[Picture]
) -> None:
    """The distance to real images of the state that was asked for, in a network that tells the modality's states apart:
    to one that tells modalities apart they all look alike.
    """
    real, networks = _real_of(bench, records), [bench.features or bench.state_network(r.modality) for r in records]
    states = [(record.modality, record.label) for record in records]
    usable = [i for i, (image, network) in enumerate(zip(real, networks, strict=True)) if image and network]
    asked = Counter(states[i] for i in usable)
    kept = [i for i in usable if asked[states[i]] > 1]
    if kept:
        own, unchanged, like, part, groups = ([v[i] for i in kept] for v in (drawn, inputs, real, records, states))
        network, metric = ByModality([networks[i] for i in kept]), "FID to real images of the state"
        baselines, task = {"identity": unchanged}, "counterfactual"
        outcome.rows.append(distant(task, metric, network, own, baselines, like, part, bench.seed, groups))
    if missing := len(records) - len(kept):
        reason = "which no network can tell apart, no real image shows or no other record asks for"
        outcome.notes.append(f"FID: {missing} records name a state {reason}")


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
