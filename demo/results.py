"""The result of a request as HTML: what a person needs to judge it stands beside it."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from core.evaluation.metrics import psnr, ssim
from core.lineage import Lineage
from core.sequence import Image
from core.tasks.regions import mask_area
from demo.render import Picture, Reply, escaped, figure, file_url, input_alt, save_input, tag
from demo.strings import ENGLISH, Words
from demo.visit import Job, Part, Scan

COMPARED = {
    "segmentation": "overlay slider side",
    "super_resolution": "slider side difference",
    "virtual_staining": "slider side difference",
    "cross_modal": "slider side difference",
    "counterfactual": "side slider difference",
}
"""How the output of a task is laid beside its input, the best way first."""


def result(job: Job, say: Words) -> str:
    """What a page shows of its request, at any moment."""
    if len(job.parts) > 1:
        return several(job, say)
    (part,) = job.parts
    blocks = [outcome(job, part, say), part.reply.written(say)]
    if job.done and part.reply.done:
        blocks.append(details(part, job.seconds, say))
    return "".join(blocks)


def several(job: Job, say: Words) -> str:
    """The answers of several requests side by side."""
    blocks = []
    for place, part in enumerate(job.parts, 1):
        head = say(part.label) if part.label in ("own", "blank", "swapped") else part.label
        if job.page == "draw":
            head = f"{place}: {say('seed')} {part.label}"
        inside = [f"<h3>{html.escape(head)}</h3>"]
        if part.reply.texts or part.reply.writing:
            inside.append(_picture(part.shown, part.reply, say) if part.shown else "")
        if part.reply.picture:
            inside.append(figure(part.reply.picture, say))
        inside.append(part.reply.written(say))
        if job.done and part.reply.done and job.page != "compare":
            inside.append(details(part, job.seconds, say))
        blocks.append(f"<section>{''.join(inside)}</section>")
    verdict = depends(job, say) if job.done and job.error is None and job.parts[0].label == "own" else ""
    return f'<div class="several">{"".join(blocks)}</div>{verdict}'


def depends(job: Job, say: Words) -> str:
    """Whether the answer to the scan differs from those to a blank and to another picture."""
    answers = {part.label: part.reply.text.strip().lower() for part in job.parts}
    same = [say(label) for label in ("blank", "swapped") if answers[label] == answers["own"]]
    sentence = say("depends no", which=", ".join(same)) if same else say("depends yes")
    return f'<p class="status" role="status">{html.escape(sentence)}</p>'


def outcome(job: Job, part: Part, say: Words) -> str:
    """The drawn image beside what it was drawn from, with its measures."""
    picture = part.reply.picture
    if picture is None:
        return ""
    if part.shown is None or not job.done or picture.step:
        return figure(picture, say)
    shown, drawn = part.shown, picture.image
    if part.region is not None:
        (drawn,) = part.judged[1]
        picture = Picture(beside(part, "mask", drawn), drawn)
    before = beside(part, "before", shown)
    blocks = [compared(part, before, picture, COMPARED[part.reply.provenance.task], say("before"), say)]
    if part.reply.provenance.task == "segmentation":
        blocks.append(f'<p class="measure">{html.escape(area(drawn, shown, say))}</p>')
    if job.reference is not None:
        reference = beside(part, "reference", job.reference)
        blocks.append(compared(part, reference, picture, "slider side difference", say("reference"), say))
        blocks.append(f'<p class="measure">{html.escape(scores(drawn, shown, job.reference, say))}</p>')
    return "".join(blocks)


def beside(part: Part, name: str, image: Image) -> str:
    """The file of a picture that the page shows beside the output, written when it is first shown."""
    if name not in part.files:
        path = Path(save_input(image, part.reply.folder))
        if image.generated:
            part.reply.provenance.save(image, path)
        part.files[name] = str(path)
    return part.files[name]


def compared(part: Part, before: str, picture: Picture, modes: str, name: str, say: Words) -> str:
    shown = part.shown
    spacing = " ".join(f"{side:g}" for side in shown.spacing_mm) if shown.spacing_mm else None
    masked = part.reply.provenance.task == "segmentation"
    return (
        tag(
            "um-compare",
            before=file_url(before),
            after=file_url(picture.path),
            before_label=name,
            after_label=say("mask") if masked else say("after"),
            before_alt=input_alt(shown, say),
            after_alt=f"{say('ai image')}, {say('task')} {part.reply.provenance.task}",
            modes=modes,
            mode=modes.split()[0],
            spacing=spacing,
            strings=element_strings(say),
        )
        + "</um-compare>"
    )


def area(mask: Image, shown: Image, say: Words) -> str:
    """The area of a mask in the pixels and millimetres of the picture that it belongs to."""
    resized = Image(mask.pixels.resize(shown.pixels.size, PILImage.Resampling.NEAREST))
    found = mask_area(resized, shown.spacing_mm)
    sentence = say("area", pixels=found.pixels, percent=100 * found.fraction)
    return sentence + (say("area no spacing") if found.mm2 is None else say("area mm2", mm2=found.mm2) + ".")


def scores(output: Image, given: Image, reference: Image, say: Words) -> str:
    """PSNR and SSIM of the output and of the input itself, both at the size of the output."""
    target, own = _at(reference, output), _at(given, output)
    drawn = np.asarray(output.pixels)
    return say(
        "scores", psnr=psnr(drawn, target), ssim=ssim(drawn, target), psnr0=psnr(own, target), ssim0=ssim(own, target)
    )


def _at(image: Image, like: Image) -> np.ndarray:
    return np.asarray(image.pixels.resize(like.pixels.size, PILImage.Resampling.BICUBIC))


def _picture(image: Image, reply: Reply, say: Words) -> str:
    small = image.pixels.copy()
    small.thumbnail((256, 256))
    path = reply.folder / f"small-{image.sha256[:16]}.png"
    if not path.exists():
        small.save(path)
    return f"<figure>{tag('img', src=file_url(str(path)), alt=input_alt(image, say))}</figure>"


def details(part: Part, seconds: float, say: Words) -> str:
    """Where an output comes from, folded away."""
    about, parameters = part.reply.provenance, json.loads(part.reply.provenance.parameters)
    computed = " · ".join(str(parameters[key]) for key in ("device", "dtype", "attention"))
    rows = [
        (say("d model"), about.model),
        (say("d weights"), part.version.fingerprint),
        *([(say("d lineage"), learned(part.version.lineage, say))] if part.version.lineage else []),
        (say("d task"), about.task),
        (say("d seed"), about.seed),
        (say("d settings"), about.settings),
        (say("d computed"), f"{computed} · {seconds:.1f} s"),
        (say("d decode"), f"{about.decode} ({say('decode info')})"),
        *((say("d output"), picture.image.sha256) for picture in part.reply.pictures),
    ]
    listed = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{escaped(str(v))}</dd>" for k, v in rows)
    warning = f'<p class="status problem">{html.escape(about.warning)}</p>' if about.warning else ""
    return (
        f'{warning}<details class="details"><summary>{html.escape(say("details"))}</summary><dl>{listed}</dl>'
        f"<p>{html.escape(say('d card'))}</p></details>"
    )


def learned(lineage: Lineage, say: Words) -> str:
    """What a learned version was made of."""
    about = lineage.brief()
    date = about["created_at"][:16].replace("T", " ")
    return say("lineage one" if lineage.judgements == 1 else "lineage", **about, date=f"{date} UTC")


def viewer(scan: Scan | None, say: Words) -> str:
    """The open scan, to look through and to window."""
    if scan is None:
        return f'<p class="empty">{html.escape(say("no scan"))}</p>'
    stack = scan.stack
    rows, cols = stack.values.shape[1:3]
    grey = not stack.colour
    center, width = (scan.center, scan.width) if scan.center is not None else stack.window or (None, None)
    alt = say("viewer alt", modality=stack.modality or say("image"), rows=rows, cols=cols)
    return (
        tag(
            "um-window",
            src=file_url(scan.files),
            rgb=None if grey else "",
            rows=rows,
            cols=cols,
            slope=stack.slope if grey else None,
            intercept=stack.intercept if grey else None,
            center=center,
            width=width,
            function_=stack.function if grey else None,
            inverted="" if stack.inverted else None,
            padding=stack.padding,
            spacing=" ".join(f"{side:g}" for side in stack.spacing_mm) if stack.spacing_mm else None,
            units=stack.units or None,
            presets=[{"name": p.name, "center": p.center, "width": p.width} for p in stack.presets] if grey else None,
            slice=scan.index,
            slices=stack.slices,
            alt=alt,
            label=alt,
            key=scan.files,
            to="scan-view",
            strings=element_strings(say),
        )
        + "</um-window>"
    )


def header(scan: Scan | None, say: Words) -> str:
    """What was removed from the file's header and what was kept."""
    if scan is None:
        return ""
    stack = scan.stack
    parts = []
    if stack.removed:
        head = html.escape(say("header removed", count=len(stack.removed)))
        parts.append(f"<p><strong>{head}</strong>{html.escape(', '.join(stack.removed))}</p>")
    else:
        parts.append(f"<p>{html.escape(say('header none'))}</p>")
    if stack.kept:
        head = html.escape(say("header kept", count=len(stack.kept)))
        parts.append(f"<p><strong>{head}</strong>{html.escape(', '.join(stack.kept))}</p>")
    parts.append(f"<p>{html.escape(say('header pixels'))}</p>")
    parts += [f"<p>{html.escape(note)}.</p>" for note in stack.notes]
    return f'<div class="notes">{"".join(parts)}</div>'


def element_strings(say: Words) -> dict[str, str] | None:
    """The words of the custom elements; their own are English."""
    return None if say == ENGLISH else say.all("element ")
