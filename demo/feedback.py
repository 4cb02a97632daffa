"""Feedback of the public: nothing is kept without consent, and a code takes everything back."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.errors import FeedbackError
from core.feedback.runs import GenerationRef
from core.feedback.screen import screened
from core.feedback.store import FeedbackStore
from demo.results import learned
from demo.strings import Words
from demo.visit import Job, Part, Visit
from demo.visits import Visits

CHOICES = ("a", "tie", "b", "both_bad", "cannot_judge")
STORED = {"a": "left", "b": "right"}


class Feedback:
    """What visitors say about outputs. Without a store nothing is kept, and votes are shown all the same."""

    def __init__(
        self, visits: Visits, store: FeedbackStore | None, withdrawn: Callable[[], object] | None = None
    ) -> None:
        self._visits, self._store, self._withdrawn = visits, store, withdrawn

    def give(
        self, tab: str, page: str, which: int, thumb: int | None, comment: str, correction: str, consent: bool,
        say: Words,
    ) -> str:  # fmt: skip
        """Keeps a thumb, a sentence or a corrected answer on a page's last output. Returns what to tell.

        Args:
            which: of several outputs, from 1.

        Raises:
            FeedbackError: there is nothing to keep, no consent, or it cannot be kept; then nothing is.
        """
        visit = self._visits.of(tab)
        job = visit.jobs.get(page)
        if job is None or not job.done or not job.parts[0].reply.done:
            raise FeedbackError(say("no answer yet"))
        comment, correction = screened(comment or "").strip(), screened(correction or "").strip()
        if thumb is None and (comment or not correction):
            raise FeedbackError(say("empty feedback"))
        if not 1 <= which <= len(job.parts):
            raise FeedbackError(say("no such image", count=len(job.parts)))
        part = job.parts[which - 1]
        with self._keeping(visit, consent, say) as (store, code):
            generation = self._generation(store, visit, code, job, part)
            if thumb is not None:
                store.rate(code, generation.response_ids[-1], thumb, comment)
            if correction:
                outputs = zip(generation.response_ids, part.reply.done, strict=True)
                store.correct(code, [i for i, output in outputs if isinstance(output, str)][-1], correction)
        return say("thanks", code=code)

    def vote(self, tab: str, choice: str, consent: bool, say: Words) -> str:
        """Locks a vote, keeps it where the visitor agrees, and says who was who.

        Raises:
            FeedbackError: there is nothing to vote on, or this pair has been voted on.
        """
        visit = self._visits.of(tab)
        job = visit.jobs.get("compare")
        if job is None or not job.done or job.error is not None or job.stopped:
            raise FeedbackError(say("no answer yet"))
        code = None
        with job.voting:
            if job.vote is not None:
                raise FeedbackError(say("voted"))
            if consent:
                with self._keeping(visit, consent, say) as (store, code):
                    left, right = (self._generation(store, visit, code, job, part) for part in job.parts)
                    store.compare(code, left.id, right.id, STORED.get(choice, choice))
            job.vote, job.vote_code = choice, code
        return self.reveal(job, say)

    @staticmethod
    def has_voted(job: Job) -> bool:
        return job.vote is not None

    @staticmethod
    def reveal(job: Job, say: Words) -> str:
        """The vote, whether it is kept, and what the two sides were."""
        sentences = [say("vote thanks", choice=say(f"vote {job.vote}"))]
        sentences.append(say("vote kept", code=job.vote_code) if job.vote_code else say("vote not kept"))
        lines = [f'<p class="status" role="status">{html.escape(" ".join(sentences))}</p>']
        for part in job.parts:
            about = part.reply.provenance
            who = f"{about.model}, seed {about.seed}, {about.settings}"
            if part.version.lineage:
                who += f" ({learned(part.version.lineage, say)})"
            lines.append(f"<p>{html.escape(say('reveal', label=part.label, who=who))}</p>")
        return "".join(lines)

    def withdraw(self, code: str, say: Words) -> int:
        """Deletes everything that was kept under a code. Returns how many entries.

        Raises:
            FeedbackError: there is no such code.
        """
        if self._store is None:
            raise FeedbackError(say("feedback off"))
        count = self._store.withdraw(code)
        if self._withdrawn is not None:
            self._withdrawn()
        return count

    @contextmanager
    def _keeping(self, visit: Visit, consent: bool, say: Words) -> Iterator[tuple[FeedbackStore, str]]:
        """The store and the visitor's code. Where something fails half-way and nobody knows the code yet, what was kept
        is deleted; the visitor is told the code if that fails, too."""
        before = visit.consent
        store, code = self._consented(visit, consent, say)
        try:
            yield store, code
        except FeedbackError:
            if code == before:
                raise
            try:
                store.withdraw(code)
            except FeedbackError:
                raise FeedbackError(say("kept in part", code=code)) from None
            visit.consent = None
            raise

    def _consented(self, visit: Visit, consent: bool, say: Words) -> tuple[FeedbackStore, str]:
        if self._store is None:
            raise FeedbackError(say("feedback off"))
        if not consent:
            raise FeedbackError(say("no consent"))
        with visit.lock:
            if visit.consent is not None:
                try:
                    self._store.consent_of(visit.consent)
                except FeedbackError:  # withdrawn or expired
                    visit.consent = None
            if visit.consent is None:
                visit.consent = self._store.give_consent()
            return self._store, visit.consent

    @staticmethod
    def _generation(store: FeedbackStore, visit: Visit, code: str, job: Job, part: Part) -> GenerationRef:
        """Keeps the input and the output that a feedback is about, once."""
        about = part.reply.provenance
        inputs, outputs = part.judged
        settings = about.record(job.seconds)["parameters"]
        if part.region is not None:
            settings["region"] = {"kind": part.region.kind, "coordinates": part.region.coordinates}
        history = part.turn.session.history[: job.before] if job.page == "workbench" else []
        return store.add_generation(
            code,
            task=about.task,
            inputs=[*history, *inputs],
            settings=settings,
            seed=about.seed,
            model_name=part.version.name,
            model_fingerprint=part.version.fingerprint,
            outputs=outputs,
            key=f"{job.id}-{part.label}",
            generated=visit.written,
        )
