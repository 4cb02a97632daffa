"""Keeps a copy of the feedback in a private dataset repository of the Hugging Face hub.

The copy is what the store holds now: what was withdrawn is missing from the next commit, and is then removed from the
history and from the storage of large files too. Every database has a folder of its own in the repository, so that a
program that begins with an empty disk does not wipe what it has mirrored before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from huggingface_hub import CommitInfo, CommitScheduler, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from core.errors import FeedbackError
from core.feedback.store import FeedbackStore

ROWS = "feedback.jsonl"
PICTURES = "pictures"
REPO_TYPE = "dataset"


class Mirror(CommitScheduler):
    """Pushes the feedback at once, every few minutes, and when ``trigger`` is called (after a withdrawal).

    One process mirrors a store. ``trigger().result()`` waits for the push, and raises what went wrong with it.

    Args:
        store: what is mirrored; open until the mirror is stopped.
        folder: of this mirror alone, best on the disk of the pictures. Nothing stays in it but a note.
        repo_id: OWNER/NAME of a dataset, made where there is none.
        token: may write to the repository; it is shown nowhere.
        minutes: between two pushes.
        endpoint: of another hub.

    Raises:
        FeedbackError: the repository is public, or the hub refuses or cannot be reached.
    """

    def __init__(
        self,
        store: FeedbackStore,
        folder: Path,
        *,
        repo_id: str,
        token: str,
        minutes: float = 5,
        endpoint: str | None = None,
    ) -> None:
        if not token or repo_id.count("/") != 1:
            raise FeedbackError("The mirror needs a token and a repository", value=repo_id, remedy="Name it OWNER/NAME")
        # The parent's constructor starts the first push: all that it needs comes before.
        self._store, self._secret = store, token
        self._note = Path(folder) / "forgotten.json"
        self._pushed = ""
        self.repo_id = repo_id
        api = HfApi(endpoint=endpoint, token=token)
        try:
            shutil.rmtree(Path(folder) / "staged", ignore_errors=True)
            _refuse_public(api, repo_id)
            super().__init__(
                repo_id=repo_id,
                folder_path=Path(folder) / "staged",
                every=minutes,
                repo_type=REPO_TYPE,
                private=True,
                hf_api=api,
            )
            return
        except Exception as error:
            problem = self._readable(error)
        raise problem

    def push_to_hub(self) -> CommitInfo | None:
        """Makes the repository what the store is; does nothing when it is already. Called by the scheduler.

        Raises:
            FeedbackError: the repository has become public, or the hub refuses or cannot be reached.
        """
        try:
            return self._push()
        except Exception as error:
            problem = self._readable(error)
        raise problem  # out here, so that it does not drag along the request, which holds the token

    def _push(self) -> CommitInfo | None:
        origin = self._store.origin()
        if origin is None:
            return None
        forgotten = self._store.withdrawals()  # before the rows are read: what comes later is for the next push
        info = None
        try:
            digest = self._stage()
            if digest != self._pushed:
                _refuse_public(self.api, self.repo_id)
                info = self.api.upload_folder(
                    repo_id=self.repo_id,
                    repo_type=REPO_TYPE,
                    folder_path=self.folder_path,
                    path_in_repo=origin,
                    commit_message="Feedback",
                    delete_patterns=["*"],
                )
                self._pushed = digest
        finally:
            shutil.rmtree(self.folder_path, ignore_errors=True)
        if forgotten and forgotten != self._forgotten():
            self._forget_history()
            self._note.write_text(json.dumps({"withdrawals": forgotten}), encoding="utf-8")
        return info

    def _stage(self) -> str:
        """Lays out the rows and their pictures, and returns the digest of the rows."""
        shutil.rmtree(self.folder_path, ignore_errors=True)
        (self.folder_path / PICTURES).mkdir(parents=True)
        digest = hashlib.sha256()
        with (self.folder_path / ROWS).open("wb") as file:
            for row in self._store.rows():
                line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                file.write(line)
                for entry in (*row["inputs"], *row["responses"]):
                    if entry.get("sha256"):
                        self._stage_picture(entry["sha256"])
        return digest.hexdigest()

    def _stage_picture(self, sha256: str) -> None:
        target = self.folder_path / PICTURES / f"{sha256}.png"
        if not target.exists():
            self._store.blobs.copy(sha256, target)  # unless it was withdrawn since the row was read

    def _forgotten(self) -> int | None:
        """How many withdrawals the history was cleared of, as far as this disk remembers."""
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))["withdrawals"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _forget_history(self) -> None:
        """Leaves one commit, and of the large files only those that it names."""
        self.api.super_squash_history(repo_id=self.repo_id, repo_type=REPO_TYPE)
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, repo_type=REPO_TYPE)
        named = {entry.lfs.sha256 for entry in tree if isinstance(entry, RepoFile) and entry.lfs}
        stored = list(self.api.list_lfs_files(self.repo_id, repo_type=REPO_TYPE))
        if named - {digest for file in stored for digest in (file.oid, file.file_oid)}:
            raise FeedbackError("The hub lists its large files in another way than this program knows")
        stale = [file for file in stored if not named & {file.oid, file.file_oid}]
        if stale:
            self.api.permanently_delete_lfs_files(self.repo_id, stale, rewrite_history=False, repo_type=REPO_TYPE)

    def _readable(self, error: Exception) -> FeedbackError:
        """What went wrong, in a sentence without the token."""
        if isinstance(error, FeedbackError):
            return error
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, HfHubHTTPError):
            what = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
        return FeedbackError(
            f"The feedback is not mirrored ({what.replace(self._secret, '***')})",
            value=self.repo_id,
            remedy="Check the name of the repository and what the token may do. It stays in the store meanwhile",
        )


def _refuse_public(api: HfApi, repo_id: str) -> None:
    """
    Raises:
        FeedbackError: the repository is there, and anybody can read it.
    """
    try:
        private = api.repo_info(repo_id, repo_type=REPO_TYPE).private
    except RepositoryNotFoundError:
        return  # it is about to be made, as a private one
    if not private:
        raise FeedbackError(
            "The repository for the feedback is public",
            value=repo_id,
            remedy="Make it private in its settings, or name another one",
        )
