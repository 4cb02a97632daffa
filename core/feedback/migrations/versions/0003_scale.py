"""Indexes for projects of a hundred thousand items."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_assignments_user_id", "assignments")
    columns = ["user_id", "project_id", "purpose", "submitted_at", "occasion"]
    op.create_index("ix_assignments_user_id", "assignments", columns)
    op.create_index("ix_items_project_id", "items", ["project_id", "taken", "withdrawn_at", "place"])
    op.drop_index("ix_items_disputed", "items")
    op.create_index("ix_items_disputed", "items", ["project_id", "place"], **_some("disputed IS NOT NULL"))
    op.create_index("ix_items_repeated", "items", ["project_id"], **_some("repeated", "repeated = 1"))
    op.create_index("ix_items_withdrawn", "items", ["project_id"], **_some("withdrawn_at IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_items_withdrawn", "items")
    op.drop_index("ix_items_repeated", "items")
    op.drop_index("ix_items_disputed", "items")
    op.create_index("ix_items_disputed", "items", ["disputed"])
    op.drop_index("ix_items_project_id", "items")
    op.drop_index("ix_assignments_user_id", "assignments")
    op.create_index("ix_assignments_user_id", "assignments", ["user_id", "project_id", "submitted_at"])


def _some(condition: str, in_sqlite: str | None = None) -> dict:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(in_sqlite or condition)}
