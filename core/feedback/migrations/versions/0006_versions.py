"""The registry of learned versions: which is served, what it was made of, and how it is compared."""

from datetime import UTC

import sqlalchemy as sa
from alembic import op
from sqlalchemy.orm import Session

from core.feedback import audit

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ONE = "state = 'promoted'"


def upgrade() -> None:
    with op.batch_alter_table("trainings") as batch:
        batch.add_column(sa.Column("state", sa.String(length=32), nullable=True))
        batch.add_column(sa.Column("lineage", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("project_id", sa.String(length=36), nullable=True))
        batch.add_column(sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("replaced_id", sa.String(length=36), nullable=True))
        batch.create_foreign_key(op.f("fk_trainings_project_id"), "projects", ["project_id"], ["id"])
        batch.create_foreign_key(op.f("fk_trainings_replaced_id"), "trainings", ["replaced_id"], ["version_id"])
    _describe()
    with op.batch_alter_table("trainings") as batch:
        batch.alter_column("state", existing_type=sa.String(length=32), nullable=False)
        batch.alter_column("lineage", existing_type=sa.JSON(), nullable=False)
        batch.create_check_constraint(op.f("ck_trainings_state"), "state IN ('candidate', 'promoted', 'retired')")
    op.create_index(
        op.f("ix_trainings_state"), "trainings", ["state"], unique=True,
        postgresql_where=sa.text(ONE), sqlite_where=sa.text(ONE),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index(op.f("ix_trainings_state"), "trainings")
    with op.batch_alter_table("trainings") as batch:
        batch.drop_constraint(op.f("ck_trainings_state"), type_="check")
        batch.drop_constraint(op.f("fk_trainings_replaced_id"), type_="foreignkey")
        batch.drop_constraint(op.f("fk_trainings_project_id"), type_="foreignkey")
        for column in ("replaced_id", "promoted_at", "project_id", "lineage", "state"):
            batch.drop_column(column)


def _describe() -> None:
    """What is known of the versions of before; the log gets the digests of their rows as they are now."""
    known = sa.text(
        "SELECT t.version_id, t.snapshot_id, v.name, v.parent_id, s.sha256, v.created_at"
        " FROM trainings t JOIN model_versions v ON v.id = t.version_id JOIN snapshots s ON s.id = t.snapshot_id"
    ).columns(created_at=sa.DateTime(timezone=True))
    table = sa.table("trainings", sa.column("version_id"), sa.column("state"), sa.column("lineage", sa.JSON()))
    session = Session(op.get_bind())
    models = sa.text("SELECT id, name, fingerprint, parent_id FROM model_versions")
    models = {row.id: row for row in session.execute(models)}
    rows = session.execute(known).all()
    learned = {row.version_id for row in rows}
    for row in rows:
        parent = root = models.get(row.parent_id)
        seen = {row.version_id}
        while root is not None and root.id in learned - seen:
            seen.add(root.id)
            root = models.get(root.parent_id)
        moment = row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC)
        new = {
            "state": "candidate",
            "lineage": {
                "name": row.name, "parent": parent.name if parent else "", "base": root.name if root else "",
                "base_fingerprint": root.fingerprint if root else "",
                "parent_fingerprint": parent.fingerprint if parent else "",
                "snapshot": row.sha256, "signals": {}, "judgements": 0, "recipe": {}, "revision": "", "metrics": {},
                "created_at": moment.isoformat(),
            },
        }  # fmt: skip
        session.execute(sa.update(table).where(table.c.version_id == row.version_id).values(**new))
        of = {"version_id": row.version_id, "snapshot_id": row.snapshot_id}
        digest = audit.sha256(of | new | {"project_id": None, "promoted_at": None, "replaced_id": None})
        audit.append(session, None, "describe", "trainings", row.version_id, None, {"sha256": digest})
    session.flush()
