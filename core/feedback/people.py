"""Who may do what in the studio: local accounts, accounts of an identity provider, roles and logins."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from core.errors import AccessError, FeedbackError
from core.feedback import audit
from core.feedback.database import Database
from core.feedback.models import utc_now
from core.feedback.studio_models import ROLES, Login, User

LOGIN_LASTS = timedelta(hours=12)
SHORTEST_PASSWORD = 10
_NAME = re.compile(r"[\w.@+-]{1,100}")
_SUBJECT = re.compile(r"[^\s|]+\|\S{1,300}")
LONGEST_SUBJECT = 500
_hasher = PasswordHasher()
_NOBODY = _hasher.hash(secrets.token_hex(16))
"""Checked where nobody has the name, so that an unknown name takes as long as a wrong password."""


@dataclass(frozen=True)
class Person:
    """Somebody who is logged in. It is read anew with every request, so that a role that is taken away is gone."""

    id: str
    login: str
    role: str

    def need(self, *roles: str) -> None:
        """
        Raises:
            AccessError: this person has none of the roles.
        """
        if self.role not in roles:
            raise AccessError("That is not for you", remedy=f"Ask a maintainer for the role {' or '.join(roles)}")


class People:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, by: Person | None, login: str, role: str, password: str | None = None, subject: str | None = None
    ) -> str:
        """A new account. Returns its id.

        Args:
            by: None for the program itself, at the command line of the machine.
            password: for a local account.
            subject: issuer and subject of an identity provider, for one of its accounts.

        Raises:
            FeedbackError: the name is taken or malformed, the password too short, or the role unknown.
            AccessError: ``by`` is no maintainer.
        """
        if by is not None:
            by.need("maintainer")
        _need_known(role)
        if not _NAME.fullmatch(login):
            remedy = "Use up to 100 letters, digits and . @ + - _"
            raise FeedbackError("A login name has other characters, or too many", value=login, remedy=remedy)
        if (password is None) == (subject is None):
            raise FeedbackError("An account needs a password or a subject of an identity provider, not both")
        if subject is not None and not (_SUBJECT.fullmatch(subject) and len(subject) <= LONGEST_SUBJECT):
            remedy = "Copy what the login page showed: the issuer, a bar and the subject"
            raise FeedbackError("That is no subject of an identity provider", value=subject, remedy=remedy)
        hashed = None if password is None else _hasher.hash(_long_enough(password))
        with self._database.writing() as session:
            audit.hold(session)
            if role != "maintainer" and session.scalar(select(User.id).limit(1)) is None:
                raise FeedbackError("The first account must be a maintainer's", value=role)
            same = User.login == login if subject is None else or_(User.login == login, User.subject == subject)
            if session.scalar(select(User.id).where(same)):
                raise FeedbackError("There is such an account already", value=login, remedy="Choose another name")
            user = User(login=login, role=role, password_hash=hashed, subject=subject)
            session.add(user)
            audit.record(session, by and by.id, "add", user, after={"role": role})
            return user.id

    def any(self) -> bool:
        """Whether there is an account at all."""
        with self._database.reading() as session:
            return session.scalar(select(User.id).limit(1)) is not None

    def everyone(self, by: Person) -> list[Person]:
        """The accounts that are not disabled.

        Raises:
            AccessError: ``by`` is no maintainer.
        """
        by.need("maintainer")
        with self._database.reading() as session:
            query = select(User).where(User.disabled_at.is_(None)).order_by(User.login)
            return [_person(user) for user in session.scalars(query)]

    def to_withdraw(self, by: Person) -> dict[str, str]:
        """The login names of all accounts whose words can be withdrawn, by their ids: also of those that have ended.

        Raises:
            AccessError: ``by`` is no maintainer.
        """
        by.need("maintainer")
        with self._database.reading() as session:
            query = select(User.id, User.login).where(User.salt.is_not(None)).order_by(User.login)
            return {user_id: login for user_id, login in session.execute(query)}

    def change_role(self, by: Person, user_id: str, role: str) -> None:
        """
        Raises:
            AccessError: ``by`` is no maintainer.
            FeedbackError: there is no such account or role, or the last maintainer would be gone.
        """
        by.need("maintainer")
        _need_known(role)
        with self._database.writing() as session:
            user = existing(session, user_id)
            before, user.role = {"role": user.role}, role
            keep_one_maintainer(session)
            audit.record(session, by.id, "change role", user, before=before, after={"role": role})

    def change_password(self, by: Person, user_id: str, password: str) -> None:
        """Gives somebody another one, as a maintainer. All logins of the account end.

        Raises:
            AccessError: ``by`` is no maintainer.
            FeedbackError: there is no such account with a password, or the new one is too short.
        """
        by.need("maintainer")
        self._set_password(by, user_id, password)

    def change_own_password(self, person: Person, old: str, new: str) -> str:
        """Returns the token of a new login; all others of the account end.

        Raises:
            AccessError: the old password is wrong, or the account has none here.
            FeedbackError: the new one is too short.
        """
        _long_enough(new)
        with self._database.reading() as session:
            query = select(User.password_hash).where(User.id == person.id, User.disabled_at.is_(None))
            hashed = session.scalar(query)
        if not _is_right(hashed, old):
            raise AccessError("The old password is wrong", remedy="Try again, or ask a maintainer for a new one")
        self._set_password(person, person.id, new)
        return self._begin(person.id)

    def has_password(self, person: Person) -> bool:
        """Whether somebody has a password here, and not at an identity provider."""
        with self._database.reading() as session:
            query = select(User.id).where(User.id == person.id, User.password_hash.is_not(None))
            return session.scalar(query) is not None

    def _set_password(self, by: Person, user_id: str, password: str) -> None:
        hashed = _hasher.hash(_long_enough(password))
        with self._database.writing() as session:
            user = existing(session, user_id)
            if user.password_hash is None:
                raise FeedbackError("That account has its password elsewhere", value=user.login)
            user.password_hash = hashed
            session.execute(delete(Login).where(Login.user_id == user_id))
            audit.record(session, by.id, "change password", user)

    def disable(self, by: Person, user_id: str) -> None:
        """Ends an account; what it has said stays.

        Raises:
            AccessError: ``by`` is no maintainer.
            FeedbackError: there is no such account, or it is the last maintainer's.
        """
        by.need("maintainer")
        with self._database.writing() as session:
            user = existing(session, user_id)
            user.disabled_at = utc_now()
            keep_one_maintainer(session)
            session.execute(delete(Login).where(Login.user_id == user_id))
            audit.record(session, by.id, "disable", user)

    def named(self, login: str) -> Person:
        """Somebody by name, for commands on the machine itself.

        Raises:
            FeedbackError: there is no such account, or it has ended.
        """
        with self._database.reading() as session:
            user = session.scalar(select(User).where(User.login == login, User.disabled_at.is_(None)))
            if user is None:
                raise FeedbackError("There is no such account", value=login, remedy="Make it with `feedback user`")
            return _person(user)

    # Logging in

    def log_in(self, login: str, password: str) -> str:
        """Returns the token of a new login, of which only the digest is stored.

        Raises:
            AccessError: name or password is wrong; it does not tell which.
        """
        with self._database.reading() as session:
            user = session.scalar(select(User).where(User.login == login, User.disabled_at.is_(None)))
            user_id, hashed = (user.id, user.password_hash) if user else (None, None)
        if not _is_right(hashed, password) or user_id is None:
            raise AccessError("Name or password is wrong", remedy="Try again, or ask a maintainer for a new one")
        return self._begin(user_id)

    def log_in_subject(self, subject: str) -> str:
        """Returns the token of a new login of somebody whom an identity provider has just vouched for.

        Raises:
            AccessError: there is no account for the subject, or it has ended.
        """
        person = self.of_subject(subject)
        if person is None:
            raise AccessError("There is no account for you", remedy="Ask a maintainer to add one")
        return self._begin(person.id)

    def _begin(self, user_id: str) -> str:
        token, now = secrets.token_urlsafe(32), utc_now()
        with self._database.writing() as session:
            session.execute(delete(Login).where(Login.expires_at <= now))
            session.add(Login(token_hash=_digest(token), user_id=user_id, expires_at=now + LOGIN_LASTS))
        return token

    def log_out(self, token: str) -> None:
        with self._database.writing() as session:
            session.execute(delete(Login).where(Login.token_hash == _digest(token)))

    def of_token(self, token: str) -> Person | None:
        """Who is logged in with a token; None when it has ended."""
        with self._database.reading() as session:
            query = select(User).join(Login).where(Login.token_hash == _digest(token), Login.expires_at > utc_now())
            user = session.scalar(query.where(User.disabled_at.is_(None)))
            return user and _person(user)

    def of_subject(self, subject: str) -> Person | None:
        """Whom an identity provider has vouched for; None for somebody without an account here."""
        with self._database.reading() as session:
            user = session.scalar(select(User).where(User.subject == subject, User.disabled_at.is_(None)))
            return user and _person(user)


def _person(user: User) -> Person:
    return Person(user.id, user.login, user.role)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _is_right(hashed: str | None, password: str) -> bool:
    try:
        return _hasher.verify(hashed or _NOBODY, password) and hashed is not None
    except (Argon2Error, InvalidHashError):
        return False


def _long_enough(password: str) -> str:
    if len(password) < SHORTEST_PASSWORD:
        raise FeedbackError("The password is too short", remedy=f"Use at least {SHORTEST_PASSWORD} characters")
    return password


def _need_known(role: str) -> None:
    if role not in ROLES:
        raise FeedbackError("Unknown role", value=role, remedy=f"Use one of {', '.join(ROLES)}")


def existing(session: Session, user_id: str, *, disabled: bool = False) -> User:
    """An account, which nobody else changes until the transaction ends.

    Args:
        disabled: whether one that has ended is found, too.

    Raises:
        FeedbackError: there is none.
    """
    user = session.get(User, user_id, with_for_update=True)
    if user is None or (user.disabled_at is not None and not disabled):
        raise FeedbackError("There is no such account", value=user_id)
    return user


def keep_one_maintainer(session: Session) -> None:
    """
    Raises:
        FeedbackError: there would be none.
    """
    audit.hold(session)  # or else two could end each other at once
    session.flush()
    if session.scalar(select(User.id).where(User.role == "maintainer", User.disabled_at.is_(None)).limit(1)) is None:
        raise FeedbackError("The last maintainer must stay one", remedy="Make somebody else a maintainer first")
