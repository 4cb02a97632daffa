"""Learned versions of a checkpoint with real adapters, in a real registry, and people who judge them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from core.feedback.gate import LEAST_ITEMS
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from core.inference.events import SegmentDone
from core.inference.session import Session, Turn
from core.inference.versions import Version
from core.lineage import Lineage
from core.model.adapter import add_adapter, write_adapter
from core.model.checkpoint import load
from core.model.fingerprint import learned_fingerprint
from core.sequence import Text
from core.training.recipe import LORA_TARGETS
from tests.core.feedback.builders import picture
from tests.core.feedback.team import Team

CPU = torch.device("cpu")


def question(version: Version, session: Session) -> Turn:
    return Turn(session, [Text("What is this?")], seed=3, text=version.generator.config.text)


def answer(version: Version, session: Session | None = None) -> str:
    turn = question(version, session or Session())
    found = [event.segment.text for event in version.generator.stream(turn) if isinstance(event, SegmentDone)]
    return found[0]


class School:
    """The studio's side of a data folder: versions are learned, registered, compared and promoted.

    Args:
        base: folder of the checkpoint that they are learned on.
    """

    def __init__(self, data: Path, base: Path) -> None:
        self.folder, self.base = data / "versions", load(base, CPU, torch.float32)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = StudioStore(f"sqlite:///{data / 'feedback.sqlite'}", data / "pictures")
        self.team = Team.of(self.store)
        self.by, self.registry = self.team.maintainer, self.store.versions
        self.snapshot = self.store.snapshots.make(self.by, Rules((self._judged("first", "second"),))).sha256
        self.ids: dict[str, str] = {}

    def close(self) -> None:
        assert list(self.store.verify()) == []
        self.store.close()

    def learn(self, name: str, seed: int = 0, parent: str | None = None) -> Lineage:
        """Writes a version folder whose adapter changes the base at random, and registers it as a candidate.

        Args:
            parent: a learned version that it is said to be made of, or else the base.
        """
        model, folder = load(self.base.folder, CPU, torch.float32).model, self.folder / name
        peft = add_adapter(model, 4, 8, LORA_TARGETS, seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
        folder.mkdir()
        write_adapter(peft, folder, None)
        (folder / "README.md").write_text(f"---\nlicense: other\n---\n# {name}\n\nLearned for a test.\n")
        made, parent = f"2026-03-01T12:00:{len(self.ids):02}+00:00", parent or self.base.name
        about = Lineage(
            name, parent, self.base.name, self.base.fingerprint, self._digest(parent), self.snapshot,
            {"pair, train": 3}, 6, {"about": "For a test"}, "", {}, made,
        )  # fmt: skip
        about.write(folder)
        self.register(about)
        return about

    def register(self, about: Lineage, **changed: str) -> None:
        """As a candidate, with what is changed of its lineage."""
        digest = learned_fingerprint(self.base.fingerprint, self.folder / about.name)
        self.ids[about.name] = self.registry.register(self.by, dataclasses.replace(about, **changed), digest)

    def compare(self, name: str) -> None:
        """Has a version compared blindly with its parent, which it beats."""
        parent = Lineage.read(self.folder / name).parent
        self.registry.link(self.by, self.ids[name], self._judged(name, parent, LEAST_ITEMS))

    def promote(self, name: str) -> None:
        """A version that was compared before."""
        self.registry.promote(self.by, self.ids[name], "Better")

    def roll_back(self) -> None:
        self.registry.roll_back(self.by, "Worse after all")

    def retire(self, name: str) -> None:
        self.registry.retire(self.by, self.ids[name], "Not needed")

    def _judged(self, better: str, worse: str, count: int = 6) -> str:
        pairs = [NewItem((self._output(better, n), self._output(worse, n))) for n in range(count)]
        project = self.team.project("compare", items=pairs, name=f"{better} {worse}", plan=Plan(overlap=2))
        for rater in self.team.raters:
            self.team.judge_all(rater, project, choices={"anatomy": 0, "overall": 0})
        return project

    def _output(self, model: str, number: int) -> str:
        (response,) = self.store.add_run(
            self.by, task="report", inputs=[picture(number), Text("Report it.")], outputs=[Text(f"{model} {number}")],
            settings={}, seed=0, model_name=model, model_fingerprint=self._digest(model), key=f"{model} {number}",
            case=("archive", str(number), "1"),
        ).response_ids  # fmt: skip
        return response

    def _digest(self, model: str) -> str:
        if model == self.base.name:
            return self.base.fingerprint
        folder = self.folder / model
        return learned_fingerprint(self.base.fingerprint, folder) if folder.is_dir() else model
