"""Keys, limits, large uploads, idempotency keys, an id of its own. Only adds (expand)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIMITS = (
    "max_bytes",
    "max_files",
    "requests_per_minute",
    "pages_per_minute",
    "bytes_per_minute",
)
_COUNT = (
    "UPDATE organisations SET"
    " stored_bytes = (SELECT COALESCE(SUM(bytes), 0) FROM files WHERE org_id = organisations.id),"
    " stored_files = (SELECT COUNT(*) FROM files WHERE org_id = organisations.id)"
)


def upgrade() -> None:
    _count_what_is_stored()
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    _create_keys()
    _create_uploads()
    _create_idempotency()
    op.create_table(
        "installation",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )


def _count_what_is_stored() -> None:
    # No batch: SQLite adds columns in place, and a copied table would lose its foreign keys.
    for name in ("stored_bytes", "stored_files"):
        op.add_column(
            "organisations", sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
        )
    for name in _LIMITS:
        op.add_column("organisations", sa.Column(name, sa.BigInteger, nullable=True))
    op.execute(_COUNT)


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("org_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.Column("pepper", sa.String(12), nullable=False),
        sa.Column("scopes", sa.String(200), nullable=False),
        sa.Column("service", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=True),
        sa.Column("last_used_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organisations.id"], name="fk_api_keys_org_id_organisations"
        ),
    )
    op.create_index("ix_api_keys_org_id", "api_keys", ["org_id"])


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("org_id", sa.String(36), nullable=False),
        sa.Column("key_id", sa.String(36), nullable=True),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("declared_type", sa.String(127), nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("file_expires_in", sa.BigInteger, nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("file_id", sa.String(36), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organisations.id"], name="fk_uploads_org_id_organisations"
        ),
    )
    op.create_index("ix_uploads_status_expires_at", "uploads", ["status", "expires_at"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("upload_id", sa.String(36), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("blob_key", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_upload_parts"),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name="fk_upload_parts_upload_id_uploads"
        ),
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])


def _create_idempotency() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("org_id", sa.String(36), nullable=False),
        sa.Column("route", sa.String(200), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("claim", sa.String(36), nullable=False),
        sa.Column("claimed_at", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("answer", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("org_id", "route", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organisations.id"], name="fk_idempotency_keys_org_id_organisations"
        ),
    )
    op.create_index("ix_idempotency_keys_claimed_at", "idempotency_keys", ["claimed_at"])


def downgrade() -> None:
    for table in ("installation", "idempotency_keys", "upload_parts", "uploads", "api_keys"):
        op.drop_table(table)
    op.drop_index("ix_files_expires_at", "files")
    for name in ("stored_bytes", "stored_files", *_LIMITS):
        op.drop_column("organisations", name)
