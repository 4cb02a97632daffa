"""Consents and their withdrawal codes."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import models

LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without 0, O, 1 and I, which are taken for one another."""
GROUPS, GROUP = 4, 4


@dataclass(frozen=True)
class Consent:
    """A consent that holds."""

    id: str
    text_version: str
    given_at: datetime
    expires_at: datetime


def new_code() -> str:
    """A withdrawal code for a person to write down: 80 random bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(GROUP)) for _ in range(GROUPS))


def code_hash(code: str) -> str:
    """SHA-256 of a code as a person types it: in any case, with or without hyphens and spaces."""
    plain = "".join(letter for letter in code.upper() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()


def find(session: Session, code: str, *, hold: bool = False) -> models.Consent:
    """The consent of a code; where it is to ``hold``, it cannot be withdrawn until the transaction ends.

    Raises:
        FeedbackError: nobody has that code.
    """
    if not code.strip():
        raise FeedbackError("There is no withdrawal code", remedy="Enter the one that you were given")
    query = select(models.Consent).where(models.Consent.code_hash == code_hash(code))
    found = session.scalar(query.with_for_update(read=True) if hold else query)  # SQLite has one write at a time anyway
    if found is None:
        raise FeedbackError("That withdrawal code is not known", remedy="Check it for a slip of the pen")
    return found


def find_valid(session: Session, code: str, now: datetime, *, hold: bool = False) -> models.Consent:
    """
    Raises:
        FeedbackError: nobody has that code, or the consent was withdrawn or has expired.
    """
    found = find(session, code, hold=hold)
    if found.withdrawn_at is not None and found.withdrawn_at < found.expires_at:
        raise FeedbackError("That consent was withdrawn", remedy="Give a new one to leave feedback")
    if found.withdrawn_at is not None or found.expires_at <= now:
        raise FeedbackError("That consent has expired", remedy="Give a new one to leave feedback")
    return found
