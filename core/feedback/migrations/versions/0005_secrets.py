"""The secret by which patients are named in what leaves the store."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "secrets",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_secrets_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secrets")),
    )
    op.bulk_insert(table, [{"id": 1, "value": secrets.token_hex(32)}])


def downgrade() -> None:
    op.drop_table("secrets")
