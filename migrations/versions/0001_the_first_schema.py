"""The first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("error_detail", sa.String(), nullable=True),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("request_headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("response_sha256", sa.String(), nullable=True),
        sa.Column("response_size", sa.Integer(), nullable=True),
        sa.Column("response_headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("response_body", sa.LargeBinary(), nullable=True),
        sa.Column("peer_address", sa.String(), nullable=True),
        sa.Column("connection_reused", sa.Boolean(), nullable=False),
        sa.Column("redialed", sa.Boolean(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
        sa.UniqueConstraint("delivery_gid", "round", "number", name="uq_attempt_natural"),
    )
    op.create_table(
        "audit_entry",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key_gid", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("audit_entry", schema=None) as batch_op:
        batch_op.create_index("ix_audit_entry_subject", ["subject", "gid"], unique=False)
        batch_op.create_index("ix_audit_entry_tenant", ["tenant_gid", "gid"], unique=False)

    op.create_table(
        "channel",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("policy", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("routes_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "delivery",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_lettered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("last_status_code", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_why", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index(
            "ix_delivery_astray",
            ["status", "gid"],
            unique=False,
            postgresql_where=sa.text(
                "status = 'retrying' OR status = 'parked' OR status = 'dead_lettered' OR status = 'discarded'"
            ),
            sqlite_where=sa.text(
                "status = 'retrying' OR status = 'parked' OR status = 'dead_lettered' OR status = 'discarded'"
            ),
        )
        batch_op.create_index(
            "ix_delivery_dead",
            ["endpoint_gid", "reason", "tenant_gid"],
            unique=False,
            postgresql_where=sa.text("status = 'dead_lettered'"),
            sqlite_where=sa.text("status = 'dead_lettered'"),
        )
        batch_op.create_index(
            "ix_delivery_due",
            ["due_at"],
            unique=False,
            postgresql_where=sa.text("due_at IS NOT NULL"),
            sqlite_where=sa.text("due_at IS NOT NULL"),
        )
        batch_op.create_index("ix_delivery_endpoint", ["endpoint_gid", "gid"], unique=False)
        batch_op.create_index("ix_delivery_message", ["message_gid"], unique=False)
        batch_op.create_index(
            "ix_delivery_parked",
            ["endpoint_gid", "gid"],
            unique=False,
            postgresql_where=sa.text("status = 'parked'"),
            sqlite_where=sa.text("status = 'parked'"),
        )
        batch_op.create_index("ix_delivery_tenant", ["tenant_gid", "gid"], unique=False)
        batch_op.create_index(
            "ix_delivery_undispatched",
            ["gid"],
            unique=False,
            postgresql_where=sa.text("dispatched_at IS NULL"),
            sqlite_where=sa.text("dispatched_at IS NULL"),
        )

    op.create_table(
        "endpoint_minute",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("retried", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("under_100", sa.Integer(), nullable=False),
        sa.Column("under_500", sa.Integer(), nullable=False),
        sa.Column("under_2000", sa.Integer(), nullable=False),
        sa.Column("slower", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_gid", "minute"),
    )
    with op.batch_alter_table("endpoint_minute", schema=None) as batch_op:
        batch_op.create_index("ix_endpoint_minute_minute", ["minute"], unique=False)

    op.create_table(
        "endpoint_minute_error",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_gid", "minute", "error"),
    )
    with op.batch_alter_table("endpoint_minute_error", schema=None) as batch_op:
        batch_op.create_index("ix_endpoint_minute_error_minute", ["minute"], unique=False)

    op.create_table(
        "message",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("idempotency_scope", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("traceparent", sa.String(), nullable=True),
        sa.Column("payload_erased_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
        sa.UniqueConstraint("idempotency_scope", "channel", "idempotency_key", name="uq_message_idempotency"),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index("ix_message_channel", ["channel", "gid"], unique=False)
        batch_op.create_index(
            "ix_message_keyed",
            ["gid"],
            unique=False,
            postgresql_where=sa.text("idempotency_key IS NOT NULL"),
            sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_message_payload",
            ["gid"],
            unique=False,
            postgresql_where=sa.text("payload IS NOT NULL"),
            sqlite_where=sa.text("payload IS NOT NULL"),
        )

    op.create_table(
        "operational_event",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("endpoint_gid", sa.String(), nullable=True),
        sa.Column("delivery_gid", sa.String(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("message_gid", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("operational_event", schema=None) as batch_op:
        batch_op.create_index("ix_operational_event_endpoint", ["endpoint_gid", "gid"], unique=False)
        batch_op.create_index("ix_operational_event_kind", ["kind", "gid"], unique=False)
        batch_op.create_index("ix_operational_event_tenant", ["tenant_gid", "gid"], unique=False)
        batch_op.create_index(
            "ix_operational_event_unpublished",
            ["gid"],
            unique=False,
            postgresql_where=sa.text("published_at IS NULL"),
            sqlite_where=sa.text("published_at IS NULL"),
        )

    op.create_table(
        "payload_erasure",
        sa.Column("message_gid", sa.String(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("message_gid"),
    )
    op.create_table(
        "receipt",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("attempt_gid", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("jws", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("gid"),
        sa.UniqueConstraint("delivery_gid", "round", "number", name="uq_receipt_natural"),
        sa.UniqueConstraint("tenant_gid", "seq", name="uq_receipt_seq"),
    )
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.create_index(
            "ix_receipt_unsealed",
            ["tenant_gid", "gid"],
            unique=False,
            postgresql_where=sa.text("seq IS NULL"),
            sqlite_where=sa.text("seq IS NULL"),
        )

    op.create_table(
        "receipt_hash",
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_gid", "level", "index"),
    )
    op.create_table(
        "receipt_key",
        sa.Column("kid", sa.String(), nullable=False),
        sa.Column("seed", sa.String(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("kid"),
    )
    op.create_table(
        "receipt_seal",
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_gid", "size"),
    )
    op.create_table(
        "tenant",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("erasing_since", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "api_key",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_gid"],
            ["tenant.gid"],
        ),
        sa.PrimaryKeyConstraint("gid"),
    )
    op.create_table(
        "endpoint",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("policy", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rate_limit", sa.Float(), nullable=True),
        sa.Column("signatures", sa.JSON(), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("tls_ca", sa.String(), nullable=True),
        sa.Column("tls_certificate", sa.String(), nullable=True),
        sa.Column("tls_key", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_gid"],
            ["tenant.gid"],
        ),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("endpoint", schema=None) as batch_op:
        batch_op.create_index("ix_endpoint_tenant", ["tenant_gid", "gid"], unique=False)

    op.create_table(
        "circuit",
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("hold", sa.String(length=32), nullable=True),
        sa.Column("hold_reason", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("openings", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("probe_delivery_gid", sa.String(), nullable=True),
        sa.Column("probe_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_gid"],
            ["endpoint.gid"],
        ),
        sa.PrimaryKeyConstraint("endpoint_gid"),
    )
    op.create_table(
        "endpoint_secret",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_gid"],
            ["endpoint.gid"],
        ),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("endpoint_secret", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_endpoint_secret_endpoint_gid"), ["endpoint_gid"], unique=False)
        batch_op.create_index(
            "ix_endpoint_secret_expiry",
            ["expires_at"],
            unique=False,
            postgresql_where=sa.text("expires_at IS NOT NULL"),
            sqlite_where=sa.text("expires_at IS NOT NULL"),
        )

    op.create_table(
        "subscription",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("filter", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["channel"],
            ["channel.name"],
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_gid"],
            ["endpoint.gid"],
        ),
        sa.ForeignKeyConstraint(
            ["tenant_gid"],
            ["tenant.gid"],
        ),
        sa.PrimaryKeyConstraint("gid"),
    )
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_subscription_channel"), ["channel"], unique=False)
        batch_op.create_index(batch_op.f("ix_subscription_endpoint_gid"), ["endpoint_gid"], unique=False)

    op.execute(
        sa.text(
            "INSERT INTO tenant (gid, name, created_at) "
            "VALUES ('ten_00000000000000000000000000', 'default', CURRENT_TIMESTAMP)"
        )
    )
    op.execute(
        sa.text(
            "INSERT INTO channel (name, routes_version, created_at) VALUES ('everhook.events', 0, CURRENT_TIMESTAMP)"
        )
    )


def downgrade() -> None:
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_subscription_endpoint_gid"))
        batch_op.drop_index(batch_op.f("ix_subscription_channel"))

    op.drop_table("subscription")
    with op.batch_alter_table("endpoint_secret", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_endpoint_secret_expiry",
            postgresql_where=sa.text("expires_at IS NOT NULL"),
            sqlite_where=sa.text("expires_at IS NOT NULL"),
        )
        batch_op.drop_index(batch_op.f("ix_endpoint_secret_endpoint_gid"))

    op.drop_table("endpoint_secret")
    op.drop_table("circuit")
    with op.batch_alter_table("endpoint", schema=None) as batch_op:
        batch_op.drop_index("ix_endpoint_tenant")

    op.drop_table("endpoint")
    op.drop_table("api_key")
    op.drop_table("tenant")
    op.drop_table("receipt_seal")
    op.drop_table("receipt_key")
    op.drop_table("receipt_hash")
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_receipt_unsealed", postgresql_where=sa.text("seq IS NULL"), sqlite_where=sa.text("seq IS NULL")
        )

    op.drop_table("receipt")
    op.drop_table("payload_erasure")
    with op.batch_alter_table("operational_event", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_operational_event_unpublished",
            postgresql_where=sa.text("published_at IS NULL"),
            sqlite_where=sa.text("published_at IS NULL"),
        )
        batch_op.drop_index("ix_operational_event_tenant")
        batch_op.drop_index("ix_operational_event_kind")
        batch_op.drop_index("ix_operational_event_endpoint")

    op.drop_table("operational_event")
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_message_payload",
            postgresql_where=sa.text("payload IS NOT NULL"),
            sqlite_where=sa.text("payload IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_message_keyed",
            postgresql_where=sa.text("idempotency_key IS NOT NULL"),
            sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        )
        batch_op.drop_index("ix_message_channel")

    op.drop_table("message")
    with op.batch_alter_table("endpoint_minute_error", schema=None) as batch_op:
        batch_op.drop_index("ix_endpoint_minute_error_minute")

    op.drop_table("endpoint_minute_error")
    with op.batch_alter_table("endpoint_minute", schema=None) as batch_op:
        batch_op.drop_index("ix_endpoint_minute_minute")

    op.drop_table("endpoint_minute")
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_delivery_undispatched",
            postgresql_where=sa.text("dispatched_at IS NULL"),
            sqlite_where=sa.text("dispatched_at IS NULL"),
        )
        batch_op.drop_index("ix_delivery_tenant")
        batch_op.drop_index(
            "ix_delivery_parked",
            postgresql_where=sa.text("status = 'parked'"),
            sqlite_where=sa.text("status = 'parked'"),
        )
        batch_op.drop_index("ix_delivery_message")
        batch_op.drop_index("ix_delivery_endpoint")
        batch_op.drop_index(
            "ix_delivery_due",
            postgresql_where=sa.text("due_at IS NOT NULL"),
            sqlite_where=sa.text("due_at IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_delivery_dead",
            postgresql_where=sa.text("status = 'dead_lettered'"),
            sqlite_where=sa.text("status = 'dead_lettered'"),
        )
        batch_op.drop_index(
            "ix_delivery_astray",
            postgresql_where=sa.text(
                "status = 'retrying' OR status = 'parked' OR status = 'dead_lettered' OR status = 'discarded'"
            ),
            sqlite_where=sa.text(
                "status = 'retrying' OR status = 'parked' OR status = 'dead_lettered' OR status = 'discarded'"
            ),
        )

    op.drop_table("delivery")
    op.drop_table("channel")
    with op.batch_alter_table("audit_entry", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_entry_tenant")
        batch_op.drop_index("ix_audit_entry_subject")

    op.drop_table("audit_entry")
    op.drop_table("attempt")
