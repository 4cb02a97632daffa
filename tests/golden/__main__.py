"""Records the golden set: ``python -m tests.golden VECTORS``, after replaying the reference vectors there."""

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from core.model.checkpoint import save, write_config
from core.model.unified import UnifiedModel
from tests.conftest import TINY, write_tokenizer
from tests.golden import CHECKPOINT, EXPECTED, FOLDER, compute
from tests.parity.__main__ import replay


def record() -> None:
    """Writes the checkpoint, its digest and what our model computes from it."""
    CHECKPOINT.mkdir(exist_ok=True)
    write_config(TINY, CHECKPOINT)
    write_tokenizer(CHECKPOINT)
    random = torch.Generator().manual_seed(11)
    model = UnifiedModel(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # the position tables keep their formula
                spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
                nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=spread, generator=random)
    save(model, CHECKPOINT, torch.bfloat16, like=CHECKPOINT)
    digest = hashlib.sha256((CHECKPOINT / "ema.safetensors").read_bytes()).hexdigest()
    (FOLDER / "ema.sha256").write_text(digest + "\n")
    save_file({name: tensor.contiguous().clone() for name, tensor in compute().items()}, EXPECTED)
    print(f"recorded {EXPECTED.relative_to(FOLDER.parent)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("vectors", type=Path, help="folder of reference vectors, see tests.parity")
    if not replay(parser.parse_args().vectors):
        sys.exit("error: parity does not hold, so there is nothing worth recording")
    record()
