"""Receipts, checkpoints and keys as they are shown."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.deliveries.schemas import DELIVERY_GID
from api.schemas import ApiModel
from everhook.receipts.receipt import claims_of
from everhook.receipts.strict_json import encode_base64
from everhook.storage import tables

_ORIGIN = "hooks.example.com/receipts/ten_01kgk27ygprz3snww46e1zg0hx"


_ROOT = "Dngj9yoV/EwcJ01EH1acdO+wE1dXDhjTrT87oZ1M2aI="


_NOTE = f"{_ORIGIN}\n11\n{_ROOT}\ntime 2026-02-01T12:30:00.000000Z\n\n\N{EM DASH} {_ORIGIN} Mgxrrq48…\n"


_JWS = "eyJhbGciOiJFZERTQSIs….eyJyZWNlaXB0R2lkIjoicmNw….W_DmlQfmnZv-…"


_STATEMENT: Any = {"outcome": "delivered", "statusCode": 200, "endedAt": "2026-02-01T12:07:00.070417Z"}


_HASHES: Any = ["lhm4n1xQGultSjQ/uAS7lYH3Gg2uHyg/0wRN/lXtcRU=", "/IGpMw4lvllay5JoXk44Snp92hvbL4Ict32XUOsTp1g="]


_KEYS: Any = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "nbf": 1767225600,
        }
    ]
}


Proof = Annotated[list[str], Field(description="Hashes in base64.", examples=[_HASHES])]


Note = Annotated[str, Field(description="A signed note (c2sp.org/tlog-checkpoint): keep it.", examples=[_NOTE])]


class JsonWebKeySet(ApiModel):
    """Public keys (RFC 7517)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEYS]})

    keys: list[dict[str, Any]] = Field(examples=[_KEYS["keys"]])


class Receipt(ApiModel):
    """A signed statement about one attempt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "receiptGid": "rcp_01m83prhbfe23sdyzab24cmhc1",
                    "deliveryGid": DELIVERY_GID,
                    "attemptGid": "att_01m83prhbfe23sdyzab24cmhc0",
                    "round": 1,
                    "number": 1,
                    "seq": 7,
                    "receipt": _JWS,
                    "statement": _STATEMENT,
                    "createdAt": "2026-02-01T12:07:00.081Z",
                }
            ]
        }
    )

    receipt_gid: str
    delivery_gid: str
    attempt_gid: str
    round: int
    number: int
    seq: int | None = Field(description="Its place in the tenant's log, once it is under a checkpoint.", examples=[7])
    receipt: str = Field(description="As it was signed: a compact JWS.", examples=[_JWS])
    statement: dict[str, Any] | None = Field(
        description="Its claims, to be read. Null where the row was damaged.",
        examples=[_STATEMENT],
    )
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Receipt) -> "Receipt":
        return cls(
            receipt_gid=row.gid,
            delivery_gid=row.delivery_gid,
            attempt_gid=row.attempt_gid,
            round=row.round,
            number=row.number,
            seq=row.seq,
            receipt=row.jws,
            statement=claims_of(row.jws),
            created_at=row.created_at,
        )


class Checkpoint(ApiModel):
    """The size of a log and its root, signed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"size": 11, "root": _ROOT, "checkpoint": _NOTE, "createdAt": "2026-02-01T12:30:00Z"}]
        }
    )

    size: int = Field(description="How many receipts are under it.", examples=[11])
    root: str = Field(examples=[_ROOT])
    checkpoint: Note
    created_at: datetime

    @classmethod
    def of(cls, row: tables.ReceiptSeal) -> "Checkpoint":
        return cls(size=row.size, root=encode_base64(row.root), checkpoint=row.note, created_at=row.created_at)


class Growth(ApiModel):
    """Proof that a log was only added to between two sizes."""

    old_size: int
    new_size: int
    proof: Proof


class ReceiptBundle(ApiModel):
    """A receipt with the proof of its place in the log of a checkpoint. Save it as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "everhook.receipt-bundle",
                    "version": 1,
                    "receipt": _JWS,
                    "seq": 7,
                    "inclusionProof": _HASHES,
                    "checkpoint": _NOTE,
                    "jwks": _KEYS,
                }
            ]
        }
    )

    type: Literal["everhook.receipt-bundle"]
    version: Literal[1]
    receipt: str = Field(examples=[_JWS])
    seq: int = Field(examples=[7])
    inclusion_proof: Proof
    checkpoint: Note
    consistency: Growth | None = Field(None, description="With `since`.")
    jwks: dict[str, Any] = Field(examples=[_KEYS])


class ConsistencyBundle(ApiModel):
    """Two checkpoints with the proof that the log was only added to between them. Save it as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "everhook.consistency-bundle",
                    "version": 1,
                    "oldCheckpoint": _NOTE,
                    "newCheckpoint": _NOTE,
                    "consistencyProof": [],
                    "jwks": _KEYS,
                }
            ]
        }
    )

    type: Literal["everhook.consistency-bundle"]
    version: Literal[1]
    old_checkpoint: Note
    new_checkpoint: Note
    consistency_proof: Proof
    jwks: dict[str, Any] = Field(examples=[_KEYS])
