"""Idempotency keys of messages in a table of their own, which partitions need"""

import sqlalchemy as sa
from alembic import op

from everhook.storage.online_schema import backfill_by_key, create_index, drop_constraint, drop_index
from everhook.storage.partitions import PARTITIONED, is_partitioned

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPDATED_OFTEN = ("circuit", "endpoint_minute", "endpoint_minute_error", "endpoint_rate")
"""Tables whose updates change no index: with room in their pages, no index entry is written (HOT)."""

TAKE_KEYS_OF_OLD_PROCESSES = (
    """
CREATE OR REPLACE FUNCTION message_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO message_key (idempotency_scope, channel, idempotency_key, message_gid)
    VALUES (NEW.idempotency_scope, NEW.channel, NEW.idempotency_key, NEW.gid) ON CONFLICT DO NOTHING;
    RETURN NEW;
END $$
""",
    "DROP TRIGGER IF EXISTS message_key ON message",
    """
CREATE TRIGGER message_key BEFORE INSERT ON message FOR EACH ROW
WHEN (NEW.idempotency_key IS NOT NULL) EXECUTE FUNCTION message_key()
""",
)
"""Before the insert, so that old processes and new ones lock the key before the message, and cannot deadlock."""

KEYS = (
    "INSERT INTO message_key (idempotency_scope, channel, idempotency_key, message_gid) "
    "SELECT idempotency_scope, channel, idempotency_key, gid FROM message WHERE idempotency_key IS NOT NULL"
)


def upgrade() -> None:
    op.create_table(
        "message_key",
        sa.Column("idempotency_scope", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("idempotency_scope", "channel", "idempotency_key"),
        if_not_exists=True,
    )
    op.create_index("ix_message_key_message", "message_key", ["message_gid"], if_not_exists=True)
    if op.get_bind().dialect.name == "postgresql":
        for statement in TAKE_KEYS_OF_OLD_PROCESSES:
            op.execute(statement)
        for table in UPDATED_OFTEN:
            op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
    backfill_by_key(KEYS, "message", "gid", only="idempotency_key IS NOT NULL")
    create_index("ix_message_tenant", "message", ["tenant_gid", "gid"], where="tenant_gid IS NOT NULL")
    if op.get_bind().dialect.name == "postgresql":
        create_index("ix_receipt_seq", "receipt", ["tenant_gid", "seq"], where="seq IS NOT NULL")
        drop_constraint("uq_receipt_seq", "receipt")
    else:
        drop_index("ix_message_keyed", "message")


def downgrade() -> None:
    connection = op.get_bind()
    if any(is_partitioned(connection, table) for table in PARTITIONED if connection.dialect.name == "postgresql"):
        _merge_partitions()
    elif connection.dialect.name == "postgresql":
        op.execute("DROP TRIGGER message_key ON message")
        op.execute("DROP FUNCTION message_key()")
        op.execute("ALTER TABLE receipt ADD CONSTRAINT uq_receipt_seq UNIQUE (tenant_gid, seq)")
        op.drop_index("ix_receipt_seq", table_name="receipt")
    else:
        create_index("ix_message_keyed", "message", ["gid"], where="idempotency_key IS NOT NULL")
    op.drop_index("ix_message_tenant", table_name="message")
    op.drop_table("message_key")


def _merge_partitions() -> None:
    """Copy each partitioned table into one that is not. Writers wait meanwhile."""
    for table in PARTITIONED:
        indexes = sa.inspect(op.get_bind()).get_indexes(table)
        op.execute(f"ALTER TABLE {table} RENAME TO {table}_months")
        op.execute(f"CREATE TABLE {table} (LIKE {table}_months INCLUDING DEFAULTS)")
        op.execute(f"INSERT INTO {table} SELECT * FROM {table}_months")  # noqa: S608 - names of our own
        op.execute(f"DROP TABLE {table}_months")
        op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (gid)")
        for index in indexes:
            if index["name"] != "ix_receipt_seq" and "duplicates_constraint" not in index:
                where = index["dialect_options"].get("postgresql_where")
                op.create_index(index["name"], table, index["column_names"], postgresql_where=where and sa.text(where))
    op.create_unique_constraint("uq_attempt_natural", "attempt", ["delivery_gid", "round", "number"])
    op.create_unique_constraint("uq_receipt_natural", "receipt", ["delivery_gid", "round", "number"])
    op.create_unique_constraint("uq_receipt_seq", "receipt", ["tenant_gid", "seq"])
    key = ["idempotency_scope", "channel", "idempotency_key"]
    op.create_unique_constraint("uq_message_idempotency", "message", key)
    op.create_index("ix_message_keyed", "message", ["gid"], postgresql_where=sa.text("idempotency_key IS NOT NULL"))
