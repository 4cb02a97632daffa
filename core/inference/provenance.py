"""Where an output comes from, and the mark that it carries wherever it goes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from core.config import ImageSampling, TextSampling
from core.inference.session import Turn
from core.model.checkpoint import Checkpoint
from core.sequence import NOTICE, Image

# IPTC's code for media made by a trained model, which image viewers and catalogues look for.
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
</rdf:RDF></x:xmpmeta>"""


def marked() -> PngInfo:
    """Metadata that say that a picture is generated, and nothing else."""
    info = PngInfo()
    info.add_text("Software", "UniMed Studio")
    info.add_text("Comment", NOTICE)
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return info


def save_marked(image: Image, path: Path) -> None:
    """Writes a generated picture as PNG that does not say which model drew it, for a blind comparison."""
    image.pixels.save(path, format="PNG", pnginfo=marked())


@dataclass(frozen=True)
class Provenance:
    """What is needed to make an output again. The prompt stays out, because it may speak of a patient.

    ``settings`` is for a person, ``parameters`` (JSON) for a program: every setting of the turn, and what computed it.
    """

    model: str
    task: str
    seed: int
    settings: str
    parameters: str
    warning: str = ""
    decode: str = ""
    """Digest of all that decides the output but the words: weights, seed, settings, input images, device. Where two
    outputs of the same words have the same digest, they are the same."""
    lineage: str = ""
    """What a learned version was made of (JSON, ``Lineage.brief``); empty for a checkpoint."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, task: str, turn: Turn) -> Provenance:
        """Of what a turn of a task will put out."""
        warning = ""
        if task in checkpoint.model.config.untrained_tasks:
            warning = f"{checkpoint.name} was not trained for this task: the output means nothing"
        settings = describe(turn.outputs, turn.image, turn.text)
        chosen = json.dumps(parameters(checkpoint, turn))
        images = [s.sha256 for s in [*turn.session.history, *turn.inputs] if isinstance(s, Image)]
        decided = json.dumps([checkpoint.fingerprint, task, turn.seed, chosen, images])
        decode = hashlib.sha256(decided.encode()).hexdigest()
        lineage = json.dumps(checkpoint.lineage.brief()) if checkpoint.lineage else ""
        return cls(checkpoint.name, task, turn.seed, settings, chosen, warning, decode, lineage)

    def png_info(self) -> PngInfo:
        """Metadata of a PNG file."""
        info = marked()
        for key in ("model", "task", "seed", "settings", "parameters", "decode", "warning", "lineage"):
            info.add_text(key.capitalize(), str(getattr(self, key)))
        return info

    def record(self, seconds: float) -> dict:
        """For a program, beside the output."""
        return {
            **asdict(self),
            "parameters": json.loads(self.parameters),
            "lineage": json.loads(self.lineage) if self.lineage else None,
            "seconds": round(seconds, 3),
            "notice": NOTICE,
        }

    def save(self, image: Image, path: Path) -> None:
        """Writes a generated picture as PNG with its mark."""
        image.pixels.save(path, format="PNG", pnginfo=self.png_info())


def parameters(checkpoint: Checkpoint, turn: Turn) -> dict:
    """Every setting of a turn that shapes its outputs, with the device, dtype and attention that computed them."""
    return {
        "outputs": turn.outputs,
        "image": asdict(turn.image) if "image" in turn.outputs else None,
        "text": asdict(turn.text) if "text" in turn.outputs or turn.think else None,
        "size": turn.size,
        **{name: getattr(turn, name) for name in ("think", "chained_resize", "posterior_mean", "parse_special")},
        **checkpoint.computed_by(),
    }


def describe(outputs: tuple[str, ...], image: ImageSampling, text: TextSampling) -> str:
    """The settings that shaped these outputs, for a person."""
    parts = []
    if "image" in outputs:
        parts.append(
            f"{image.num_timesteps} timesteps, shift {image.timestep_shift:g}, text guidance {image.cfg_text_scale:g}, "
            f"image guidance {image.cfg_img_scale:g}, {image.cfg_renorm_type} renorm"
        )
    if "text" in outputs:
        chosen = "greedy" if text.temperature == 0 else f"temperature {text.temperature:g}, top-p {text.top_p:g}"
        parts.append(f"{chosen} text of up to {text.max_new_tokens} tokens")
    return "; ".join(parts)
