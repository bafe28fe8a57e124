"""Tasks of inboxes, their decisions, and gates"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OPEN = sa.text("state = 'open'")
_ESCALATED = sa.text("escalated_to IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("assignees", sa.JSON(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("requester_key_gid", sa.String(), nullable=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reminders_sent", sa.Integer(), nullable=False),
        sa.Column("remind_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("escalated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("escalated_to", sa.String(), nullable=True),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
    )
    op.create_index("uq_task_delivery", "task", ["delivery_gid"], unique=True)
    op.create_index("ix_task_message", "task", ["message_gid"])
    op.create_index("ix_task_tenant", "task", ["tenant_gid", "gid"])
    op.create_index("ix_task_endpoint", "task", ["endpoint_gid", "gid"])
    op.create_index("ix_task_open", "task", ["due_at"], postgresql_where=_OPEN, sqlite_where=_OPEN)
    op.create_index("ix_task_escalated", "task", ["escalated_to"], postgresql_where=_ESCALATED, sqlite_where=_ESCALATED)
    op.create_table(
        "task_decision",
        sa.Column("task_gid", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task_gid", "actor"),
    )
    op.create_table(
        "gate",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("task", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
    )
    op.create_index("uq_gate_message", "gate", ["message_gid"], unique=True)
    op.create_index("uq_gate_delivery", "gate", ["delivery_gid"], unique=True)
    op.add_column("channel", sa.Column("gates", sa.JSON(), nullable=True))
    op.execute(
        sa.text(
            "INSERT INTO channel (name, routes_version, created_at) VALUES ('everhook.tasks', 0, CURRENT_TIMESTAMP)"
        )
    )


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM subscription WHERE channel = 'everhook.tasks'"))
    op.execute(sa.text("DELETE FROM channel WHERE name = 'everhook.tasks'"))
    op.drop_column("channel", "gates")
    op.drop_table("gate")
    op.drop_table("task_decision")
    op.drop_table("task")
