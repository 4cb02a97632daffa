"""Snapshots of what can be learned, and the model versions that were trained on them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("replaces_id", sa.String(length=36), nullable=True),
        sa.Column("created_by", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("emptied_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_snapshots_created_by")),
        sa.ForeignKeyConstraint(["replaces_id"], ["snapshots.id"], name=op.f("fk_snapshots_replaces_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("sha256", name=op.f("uq_snapshots_sha256")),
    )
    op.create_table(
        "snapshot_signals",
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_snapshot_signals_snapshot_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "place", name=op.f("pk_snapshot_signals")),
    )
    op.create_table(
        "snapshot_parts",
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("judgement_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["judgement_id"], ["judgements.id"], name=op.f("fk_snapshot_parts_judgement_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_snapshot_parts_snapshot_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "judgement_id", name=op.f("pk_snapshot_parts")),
    )
    op.create_index(op.f("ix_snapshot_parts_judgement_id"), "snapshot_parts", ["judgement_id"])
    op.create_table(
        "trainings",
        sa.Column("version_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_trainings_snapshot_id")),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_trainings_version_id")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_trainings")),
    )
    op.create_index(op.f("ix_trainings_snapshot_id"), "trainings", ["snapshot_id"])


def downgrade() -> None:
    for table in ("trainings", "snapshot_parts", "snapshot_signals", "snapshots"):
        op.drop_table(table)
