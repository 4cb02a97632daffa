"""What a person sees of a run: a progress bar, files of metrics and progress, TensorBoard, and grids of samples."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from PIL import Image as PILImage
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import task_turn
from core.model.checkpoint import Checkpoint
from core.model.unified import UnifiedModel
from core.sequence import NOTICE
from core.tasks import MODALITIES, TASKS
from core.tasks.generation import plain_caption
from core.training.parallel import world

METRICS = "metrics.jsonl"


class Monitor:
    """Metrics of the first process: ``OUT/metrics.jsonl``, ``OUT/tensorboard`` and a bar on standard error.

    Rates are those of all processes, estimated from the first. Model FLOPs utilisation counts 6 FLOPs for a token and
    each parameter of the layers that compute it, frozen ones too, without attention and heads, over the fastest matrix
    product that one device was measured to do when the run began.
    """

    def __init__(self, out: Path, steps: int, done: int, model: UnifiedModel, dtype: torch.dtype) -> None:
        self.path = out / METRICS
        _cut(self.path, done)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=done)
        self.bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)
        self.parameters = {name: sum(p.numel() for p in model.language_model.layers[0].get_submodule(name).parameters())
                           * len(model.language_model.layers) for name in ("und", "gen")}  # fmt: skip
        self.vit_parameters = sum(p.numel() for p in model.vit.parameters())
        self.peak = matmul_peak(model.device, dtype)
        self.seconds, self.tokens, self.flops = 0.0, 0, 0.0
        self._last = time.perf_counter()

    def count(self, und: int, gen: int, vit: int) -> None:
        """Tokens of one pack."""
        self.tokens += und + gen
        self.flops += 6.0 * (und * self.parameters["und"] + gen * self.parameters["gen"] + vit * self.vit_parameters)

    def step(self, step: int, values: dict[str, float], *, write: bool) -> None:
        """Moves the bar; with ``write`` the values go into the file and to TensorBoard, with the rates since then."""
        self.bar.update(1)
        if not write:
            return
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        values = values | {"tokens_per_s": world() * self.tokens / seconds, "mfu": self.flops / seconds / self.peak}
        self.tokens, self.flops = 0, 0.0
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | {k: float(f"{v:.6g}") for k, v in values.items()}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = {k: f"{values[k]:.4g}" for k in ("ce", "mse", "tokens_per_s", "mfu") if k in values}
        self.bar.set_postfix(shown, refresh=True)

    def close(self) -> None:
        self.bar.close()
        self.board.close()


class Progress:
    """The file ``progress.json`` of a run, for whoever watches it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"

    def tell(self, phase: str, done: int = 0, of: int = 0, message: str = "") -> None:
        values = {"phase": phase, "done": done, "of": of, "message": message, "pid": os.getpid()}
        values |= {"born": psutil.Process().create_time(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(values), encoding="utf-8")
        part.replace(self.path)


def _cut(path: Path, done: int) -> None:
    """Drops the lines of steps that will be run again, and a line that was cut off."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= done:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    part.replace(path)


def matmul_peak(device: torch.device, dtype: torch.dtype, side: int = 1024) -> float:
    """FLOP/s of the best of five square matrix products."""
    side = 4 * side if device.type == "cuda" else side
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def sample_grid(checkpoint: Checkpoint, path: Path, per_modality: int = 2, seed: int = 0) -> None:
    """Draws a few images of every modality and writes them as one picture, a row a modality, marked as generated."""
    generator = Generator(checkpoint)
    captions = [plain_caption(modality) for modality in MODALITIES]
    turns = [
        task_turn(generator, TASKS["text_to_image"], [], caption, seed=seed + i)
        for caption in captions for i in range(per_modality)
    ]  # fmt: skip
    height, width = generator.config.image.size
    sheet = PILImage.new("RGB", (per_modality * width, len(captions) * height))
    for index, event in generator.batch(turns):
        if isinstance(event, SegmentDone):
            row, column = divmod(index, per_modality)
            sheet.paste(event.segment.pixels, (column * width, row * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PILImage.Exif()
    info[0x010E] = f"{NOTICE} Rows: {', '.join(captions)}"
    sheet.save(path, exif=info)
