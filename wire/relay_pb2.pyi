from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("secret", "party", "identity", "csr", "signature", "software")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    party: str
    identity: bytes
    csr: bytes
    signature: bytes
    software: str
    def __init__(self, secret: _Optional[bytes] = ..., party: _Optional[str] = ..., identity: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., software: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class Letter(_message.Message):
    __slots__ = ("id", "sender", "recipient", "sealed")
    ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    sender: str
    recipient: str
    sealed: bytes
    def __init__(self, id: _Optional[bytes] = ..., sender: _Optional[str] = ..., recipient: _Optional[str] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class PostRequest(_message.Message):
    __slots__ = ("letters",)
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[Letter]
    def __init__(self, letters: _Optional[_Iterable[_Union[Letter, _Mapping]]] = ...) -> None: ...

class PostReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, kept: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CollectReply(_message.Message):
    __slots__ = ("letters",)
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[Letter]
    def __init__(self, letters: _Optional[_Iterable[_Union[Letter, _Mapping]]] = ...) -> None: ...

class Docket(_message.Message):
    __slots__ = ("contract", "parties", "steps", "expires_s", "signature", "members")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    parties: _containers.RepeatedScalarFieldContainer[str]
    steps: _containers.RepeatedScalarFieldContainer[str]
    expires_s: int
    signature: bytes
    members: _containers.RepeatedCompositeFieldContainer[Members]
    def __init__(self, contract: _Optional[bytes] = ..., parties: _Optional[_Iterable[str]] = ..., steps: _Optional[_Iterable[str]] = ..., expires_s: _Optional[int] = ..., signature: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[Members, _Mapping]]] = ...) -> None: ...

class Members(_message.Message):
    __slots__ = ("parties",)
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    parties: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parties: _Optional[_Iterable[str]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("contract", "signature")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    signature: bytes
    def __init__(self, contract: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Withdrawal(_message.Message):
    __slots__ = ("contract", "refused")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    refused: bool
    def __init__(self, contract: _Optional[bytes] = ..., refused: _Optional[bool] = ...) -> None: ...

class LookRequest(_message.Message):
    __slots__ = ("contract",)
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    def __init__(self, contract: _Optional[bytes] = ...) -> None: ...

class LookReply(_message.Message):
    __slots__ = ("campaigns",)
    CAMPAIGNS_FIELD_NUMBER: _ClassVar[int]
    campaigns: _containers.RepeatedCompositeFieldContainer[CampaignState]
    def __init__(self, campaigns: _Optional[_Iterable[_Union[CampaignState, _Mapping]]] = ...) -> None: ...

class CampaignState(_message.Message):
    __slots__ = ("contract", "state", "step", "attempt", "reason", "by", "missing")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    state: str
    step: int
    attempt: int
    reason: str
    by: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, contract: _Optional[bytes] = ..., state: _Optional[str] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("contract", "step", "run", "receipt", "committed")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    step: int
    run: bytes
    receipt: bytes
    committed: bool
    def __init__(self, contract: _Optional[bytes] = ..., step: _Optional[int] = ..., run: _Optional[bytes] = ..., receipt: _Optional[bytes] = ..., committed: _Optional[bool] = ...) -> None: ...

class FromNode(_message.Message):
    __slots__ = ("here", "ended")
    HERE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    here: Here
    ended: Ended
    def __init__(self, here: _Optional[_Union[Here, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ...) -> None: ...

class Here(_message.Message):
    __slots__ = ("software", "held")
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    software: str
    held: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, software: _Optional[str] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("contract", "step", "run", "prepared", "receipt", "error", "reason")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    step: int
    run: bytes
    prepared: bool
    receipt: bytes
    error: str
    reason: str
    def __init__(self, contract: _Optional[bytes] = ..., step: _Optional[int] = ..., run: _Optional[bytes] = ..., prepared: _Optional[bool] = ..., receipt: _Optional[bytes] = ..., error: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ToNode(_message.Message):
    __slots__ = ("start", "stop", "commit", "state", "mail")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MAIL_FIELD_NUMBER: _ClassVar[int]
    start: Start
    stop: Stop
    commit: Commit
    state: CampaignState
    mail: Mail
    def __init__(self, start: _Optional[_Union[Start, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., state: _Optional[_Union[CampaignState, _Mapping]] = ..., mail: _Optional[_Union[Mail, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("contract", "step", "run", "attempt")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    step: int
    run: bytes
    attempt: int
    def __init__(self, contract: _Optional[bytes] = ..., step: _Optional[int] = ..., run: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("contract", "run", "reason")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    run: bytes
    reason: str
    def __init__(self, contract: _Optional[bytes] = ..., run: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("contract", "step", "run", "receipts")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    step: int
    run: bytes
    receipts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, contract: _Optional[bytes] = ..., step: _Optional[int] = ..., run: _Optional[bytes] = ..., receipts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Mail(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Frame(_message.Message):
    __slots__ = ("run", "peer", "sealed", "end")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    run: bytes
    peer: str
    sealed: bytes
    end: bool
    def __init__(self, run: _Optional[bytes] = ..., peer: _Optional[str] = ..., sealed: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...
