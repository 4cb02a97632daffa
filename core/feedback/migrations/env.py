"""What alembic runs: the migrations on the connection that the store has opened.

A new migration is written with ``alembic -c core/feedback/migrations/alembic.ini -x url=sqlite:///FILE revision
--autogenerate --rev-id 0004 -m "what changes"`` in the root of the project, on a database that is at the last one.
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from core.feedback import studio_models  # noqa: F401  its tables, too
from core.feedback.models import Base, UTCDateTime


def render(kind: str, item: object, _: object) -> str | bool:
    """How an item is written into a new migration: without our own types, which may change after it."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UTCDateTime) else False


def migrate(connection: Connection) -> None:
    # SQLite cannot change most of a table: alembic copies it into a new one there (batch).
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, render_item=render)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    engine = create_engine(context.get_x_argument(as_dictionary=True)["url"])
    with engine.connect() as own:
        migrate(own)
    engine.dispose()
