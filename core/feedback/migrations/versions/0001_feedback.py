"""The first tables: consents, model versions, generations, responses, ratings, comparisons."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TRUST = "trust IN ('untrusted', 'confirmed', 'rejected')"


def upgrade() -> None:
    _create_consents()
    _create_model_versions()
    _create_generations()
    _create_responses()
    _create_ratings()
    _create_comparisons()


def downgrade() -> None:
    for table in ("comparisons", "ratings", "responses", "generation_pictures", "generations"):
        op.drop_table(table)
    for table in ("model_versions", "consents"):
        op.drop_table(table)


def _id(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(36), nullable=nullable)


def _moment(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _key(table: str, column: str, target: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"), ondelete=ondelete)


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns or ("id",), name=op.f(f"pk_{table}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{columns[0]}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{columns[0]}"), table, list(columns))


def _create_consents() -> None:
    op.create_table(
        "consents",
        _id("id"),
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("text_version", sa.Text, nullable=False),
        _moment("given_at"),
        _moment("expires_at"),
        _moment("withdrawn_at", nullable=True),
        _check("consents", "order", "expires_at >= given_at"),
        _primary("consents"),
        _unique("consents", "code_hash"),
    )
    _index("consents", "expires_at")


def _create_model_versions() -> None:
    op.create_table(
        "model_versions",
        _id("id"),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        _id("parent_id", nullable=True),
        _moment("created_at"),
        _key("model_versions", "parent_id", "model_versions.id"),
        _primary("model_versions"),
        _unique("model_versions", "name"),
    )
    _index("model_versions", "parent_id")


def _create_generations() -> None:
    op.create_table(
        "generations",
        _id("id"),
        sa.Column("task", sa.String(32), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        _id("model_version_id"),
        _id("consent_id"),
        _moment("created_at"),
        _check("generations", "seed", "seed >= 0"),
        _key("generations", "consent_id", "consents.id"),
        _key("generations", "model_version_id", "model_versions.id"),
        _primary("generations"),
    )
    _index("generations", "consent_id")
    _index("generations", "model_version_id")
    _index("generations", "created_at", "id")
    op.create_table(
        "generation_pictures",
        _id("generation_id"),
        sa.Column("sha256", sa.String(64), nullable=False),
        _key("generation_pictures", "generation_id", "generations.id", "CASCADE"),
        _primary("generation_pictures", "generation_id", "sha256"),
    )
    _index("generation_pictures", "sha256")


def _create_responses() -> None:
    op.create_table(
        "responses",
        _id("id"),
        _id("generation_id"),
        sa.Column("place", sa.SmallInteger, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=True),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("author", sa.String(32), nullable=False),
        _id("corrects_id", nullable=True),
        _id("consent_id", nullable=True),
        sa.Column("trust", sa.String(32), nullable=True),
        _moment("created_at"),
        _check("responses", "kind", "kind IN ('text', 'image')"),
        _check("responses", "author", "author IN ('model', 'person')"),
        _check("responses", "trust", TRUST),
        _check("responses", "place", "place >= 0"),
        _check(
            "responses",
            "content",
            "(kind = 'text' AND text IS NOT NULL AND sha256 IS NULL)"
            " OR (kind = 'image' AND text IS NULL AND sha256 IS NOT NULL)",
        ),
        _check(
            "responses",
            "origin",
            "(author = 'model' AND corrects_id IS NULL AND consent_id IS NULL AND trust IS NULL)"
            " OR (author = 'person' AND trust IS NOT NULL)",
        ),
        _key("responses", "generation_id", "generations.id", "CASCADE"),
        _key("responses", "corrects_id", "responses.id", "CASCADE"),
        _key("responses", "consent_id", "consents.id"),
        _primary("responses"),
    )
    _index("responses", "generation_id", "place")
    _index("responses", "corrects_id")
    _index("responses", "consent_id")


def _create_ratings() -> None:
    op.create_table(
        "ratings",
        _id("id"),
        _id("response_id"),
        _id("consent_id"),
        sa.Column("value", sa.SmallInteger, nullable=False),
        sa.Column("comment", sa.Text, nullable=True),
        _moment("created_at"),
        sa.Column("trust", sa.String(32), nullable=False),
        _check("ratings", "value", "value IN (-1, 1)"),
        _check("ratings", "trust", TRUST),
        _key("ratings", "response_id", "responses.id", "CASCADE"),
        _key("ratings", "consent_id", "consents.id"),
        _primary("ratings"),
        _unique("ratings", "response_id", "consent_id"),
    )
    _index("ratings", "consent_id")


def _create_comparisons() -> None:
    op.create_table(
        "comparisons",
        _id("id"),
        _id("left_generation_id"),
        _id("right_generation_id"),
        sa.Column("choice", sa.String(32), nullable=False),
        sa.Column("comment", sa.Text, nullable=True),
        _id("consent_id"),
        _moment("created_at"),
        sa.Column("trust", sa.String(32), nullable=False),
        _check("comparisons", "choice", "choice IN ('left', 'right', 'tie', 'both_bad', 'cannot_judge')"),
        _check("comparisons", "trust", TRUST),
        _check("comparisons", "sides", "left_generation_id <> right_generation_id"),
        _key("comparisons", "left_generation_id", "generations.id", "CASCADE"),
        _key("comparisons", "right_generation_id", "generations.id", "CASCADE"),
        _key("comparisons", "consent_id", "consents.id"),
        _primary("comparisons"),
    )
    _index("comparisons", "left_generation_id")
    _index("comparisons", "right_generation_id")
    _index("comparisons", "consent_id")
