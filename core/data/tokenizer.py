"""Byte-level BPE of a checkpoint folder, and its four markers (spec section 2)."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as BPE

from core.errors import CheckpointError

BOS, EOS, SOI, EOI = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"


class Tokenizer:
    """Text to ids and back. ``bos, eos`` surround a text, ``soi, eoi`` an image."""

    def __init__(self, bpe: BPE) -> None:
        self._bpe = bpe
        declared = {token.content for token in bpe.get_added_tokens_decoder().values() if token.special}
        bpe.add_special_tokens([AddedToken(t, special=True) for t in (BOS, EOS, SOI, EOI) if t not in declared])
        self.bos, self.eos, self.soi, self.eoi = (bpe.token_to_id(t) for t in (BOS, EOS, SOI, EOI))
        self.special_ids = frozenset(i for i, t in bpe.get_added_tokens_decoder().items() if t.special)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError("The checkpoint folder lacks a file", value=path.name, remedy=f"Put it into {folder}")
        try:
            return cls(BPE.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"tokenizer.json cannot be read ({error})", remedy="Copy the file again") from error

    def __len__(self) -> int:
        return self._bpe.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids without markers.

        A marker's string inside the text, such as ``<|im_end|>``, stays ordinary text; with ``parse_special``
        it becomes the marker, as in the reference, which lets a prompt break out of its segment.
        """
        self._bpe.encode_special_tokens = not parse_special
        return self._bpe.encode(text, add_special_tokens=False).ids

    def segment(self, text: str, *, parse_special: bool = False) -> list[int]:
        """What the model is fed for a text: start marker, ids, end marker."""
        return [self.bos, *self.encode(text, parse_special=parse_special), self.eos]

    def decode(self, ids: list[int]) -> str:
        """The text of ids; markers among them stay in it as strings."""
        return self._bpe.decode(ids, skip_special_tokens=False)
