"""The sum of what at least three organisations hold, added up by a coordinator that sees no part of it.

    member i                                        coordinator
      x_i, fresh for this run
      key_i = x_i G, signed by i      -- key -->
                                      <-- keys --   all of them, or the run ends with the name that is missing
      s_ij = HKDF(x_i key_j), each j
    round t of model M:
      v_i as integers modulo 2^64, and the number 1
      y_i = v_i + sum over j > i of m_ij - sum over j < i of m_ij
             m_ij = ChaCha20(HKDF(s_ij, t, H(M)))
      vouch_i: t, H(M), H(y_i), signed -- y_i, vouch_i -->
                                      <-- all y, all vouches --
      each is signed for t and H(M) by its member: else the end
      sum of y = sum of v, and its last word counts n members: else the end

Everybody adds up: the coordinator to go on, each member to take nothing on trust. So the coordinator can leave nobody
out, put nobody in, give no two members different models or different sums, and use no answer twice, without ending the
run.

Assumption: X25519, HKDF-SHA256 and ChaCha20 as a pseudo-random function, Ed25519; the identity keys are pinned before
(in the contract). At least two members besides any that collude do as they should.

What each learns. The coordinator and every member: the sum over the whole cohort in each round, nothing of its parts,
each y_i being uniform to whoever lacks one m_ij. A member can take its own part off: of three, it sees the sum of two.
With two parties that would be the other's part, which is why there are three.

Not here: what a member puts in. It may be anything in range (clipping.py, robust.py).

Reference: [BIKMMPRSS17] Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
2017, section 4.0.1 (masking) without its recovery of members that leave: the run ends instead. [PFA22] Pasquini,
Francati, Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022: why M is in
the mask.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import ArrayLike, NDArray

from ..channel import ConfigError, DisagreementError, Message, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray, IntArray, UInt64Array
from ..primitives.randomness import Randomness

Sign = Callable[[bytes], bytes]

FEWEST = 3
MOST = 100
KEY_BYTES = 96
_POINT_BYTES = 32
_COHORT = b"tidegate cohort v1"
_KEY = b"tidegate sum key v1"
_PAIR = b"tidegate sum pair v1"
_MASK = b"tidegate sum mask v1"
_VOUCH = b"tidegate sum vouch v1"
_MOST_NOISE = 64
"""No draw of noise has more standard deviations than this."""


@dataclass(frozen=True)
class Cohort:
    """Who adds up in one run of one contract: names and pinned Ed25519 identity keys. Refuses what cannot hide a part.

    contract: hash of 32 bytes; run: 16 bytes; coordinator: the identity key of who adds up, which is no member's.
    PolicyError for fewer than three organisations, two names of one, the coordinator as one; ConfigError for over 100.
    """

    contract: bytes
    run: bytes
    identities: Mapping[str, bytes]
    coordinator: bytes

    def __post_init__(self) -> None:
        if len(self.contract) != 32 or len(self.run) != 16 or len(self.coordinator) != 32:
            raise ValueError("a cohort has a contract hash of 32 bytes, a run of 16, a coordinator's key of 32")
        owners: dict[bytes, str] = {self.coordinator: "the coordinator"}
        for name, identity in self.identities.items():
            if len(identity) != 32:
                raise ValueError("an identity key has 32 bytes")
            if identity in owners:
                raise PolicyError(
                    f"{name} has the same identity key as {owners[identity]}, so they are one organisation",
                    "name each organisation once, and not the coordinator's",
                )
            owners[identity] = name
        if len(self.identities) < FEWEST:
            raise PolicyError(
                f"a hidden sum needs {FEWEST} organisations, this cohort has {len(self.identities)}: of two, each gets "
                "the other's part as the sum minus its own",
                "find another organisation, or train between two with the vertical steps",
            )
        if len(self.identities) > MOST:
            raise ConfigError(f"a cohort has at most {MOST} organisations, this one {len(self.identities)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.identities))

    @cached_property
    def digest(self) -> bytes:
        """The same at all members that mean the same contract, run, names and keys."""
        members = (part for name in self.names for part in (name.encode(), self.identities[name]))
        return _hash(_COHORT, self.contract, self.run, self.coordinator, *members)


@dataclass(frozen=True)
class FixedPoint:
    """Reals of -limit..limit as integers modulo 2^64 of which the sum over all members cannot wrap.

    bits: of the fraction. noise_sd: standard deviation of the noise that each member adds, in units of the last place.
    """

    members: int
    limit: float
    bits: int = 24
    noise_sd: int = 0

    def __post_init__(self) -> None:
        if self.members < 1 or self.bits < 0 or self.noise_sd < 0 or not 0 < self.limit < math.inf:
            raise ValueError("members and limit are positive, bits and noise are not negative")
        # The sum of n numbers of size at most `most` lies in -n most .. n most, which two's complement holds.
        if self.members * self.most >= 2**63:
            raise ConfigError(
                f"the sum of {self.members} numbers of +-{self.limit:g} with {self.bits} bits of fraction could wrap",
                "declare a smaller range, or less noise",
            )

    @property
    def most(self) -> int:
        """The largest size of one member's integer."""
        return math.ceil(self.limit * (1 << self.bits)) + _MOST_NOISE * self.noise_sd

    def encode(self, values: ArrayLike, size: int, noise: IntArray | None = None) -> UInt64Array:
        """round(values 2^bits) + noise modulo 2^64, (size,).

        PolicyError for another shape, for what is not finite or out of range: then nothing leaves this member.
        """
        x = np.asarray(values, np.float64)
        if x.shape != (size,):
            raise PolicyError(f"our own update has the shape {x.shape}, ({size},) is what the contract's model has")
        if not np.isfinite(x).all():
            raise PolicyError(
                "our own update holds numbers that are not finite, so it is not sent",
                "look for missing or huge values in the data set, or train with more l2",
            )
        if np.abs(x).max(initial=0.0) > self.limit:
            raise PolicyError(
                f"our own update leaves the declared range of +-{self.limit:g}, so it is not sent",
                "check the units of the columns against the contract's ranges",
            )
        units = np.rint(x * 2.0**self.bits).astype(np.int64)
        if noise is not None:
            if noise.shape != (size,) or int(np.abs(noise).max(initial=0)) > _MOST_NOISE * self.noise_sd:
                raise ValueError("the noise has another shape or size than declared")
            units += noise
        return units.view(np.uint64)

    def integers(self, total: UInt64Array) -> IntArray:
        """The sum in units of 2^-bits. PeerError where so many members cannot have it."""
        units = total.view(np.int64)
        most = self.members * self.most
        if ((units > most) | (units < -most)).any():
            raise PeerError(
                f"the sum is not one that {self.members} members can have: one of them sent what is out of range",
                "the run ends; ask the members to compare their versions",
            )
        return units

    def decode(self, total: UInt64Array) -> FloatArray:
        """The sum as reals. PeerError where so many members cannot have it."""
        return self.integers(total) / 2.0**self.bits


@dataclass(frozen=True)
class _Vouch(Message):
    MAX_BYTES: ClassVar[int] = 256

    round: int
    model: bytes
    sent: bytes
    signature: bytes


def model_hash(*arrays: FloatArray) -> bytes:
    """32 bytes that are the same for the same numbers in the same shapes."""
    parts = [np.ascontiguousarray(array, "<f8") for array in arrays]
    return _hash(*(struct.pack(f"<{a.ndim}Q", *a.shape) + a.tobytes() for a in parts))


def verify_vouch(cohort: Cohort, name: str, round: int, vouched: bytes) -> tuple[bytes, bytes]:
    """The hashes of the model and of the answer that `name` signed in this round. PeerError if it did not."""
    try:
        vouch = _Vouch.from_bytes(vouched)
        Ed25519PublicKey.from_public_bytes(cohort.identities[name]).verify(
            vouch.signature, _vouch_bytes(cohort, name, vouch.round, vouch.model, vouch.sent)
        )
    except (InvalidSignature, ValueError, PeerError):
        raise PeerError(
            f"what came as {name}'s answer to round {round} is not signed by {name} for this contract and run",
            "the coordinator altered or swapped it, or that member runs another version; start a new run",
        ) from None
    if vouch.round != round:
        raise PeerError(f"{name}'s answer is to round {vouch.round}, round {round} was asked", "start a new run")
    return vouch.model, vouch.sent


def words_of(name: str, words: NDArray[np.uint64], size: int) -> UInt64Array:
    """A member's answer, if it can be one: `size` integers and the count. PeerError, with its name, if not."""
    if words.dtype != np.uint64 or words.shape != (size + 1,):
        raise PeerError(f"{name} sent {words.dtype} {words.shape}, uint64 ({size + 1},) is what a round takes")
    return words


def add(masked: Mapping[str, UInt64Array], names: Iterable[str], size: int) -> UInt64Array:
    """The sum modulo 2^64 of everybody's answers, (size,). PeerError unless all are there and their masks cancel."""
    _verify_names(masked, names, "answer")
    total = np.zeros(size + 1, np.uint64)
    for name, words in masked.items():
        total += words_of(name, words, size)
    # A pair that masks for different models, rounds or keys leaves a uniform number here: n once in 2^64.
    if int(total[-1]) != len(masked):
        raise PeerError(
            "the masks of this round do not cancel, so there is no sum",
            "two members were given different models or keys, or one is broken; their vouches say who",
        )
    return total[:-1]


class Member:
    """One organisation in one run of secure sums. Never prints its keys; not shared between threads.

    sign: signs with the identity key that the cohort has under `name`.
    """

    def __init__(self, name: str, cohort: Cohort, *, sign: Sign, randomness: Randomness) -> None:
        if name not in cohort.identities:
            raise PolicyError(f"the cohort does not name {name}", "take part in contracts that name this party")
        self.name, self.cohort, self._sign = name, cohort, sign
        self._secret = X25519PrivateKey.from_private_bytes(randomness.bytes(_POINT_BYTES))
        point = self._secret.public_key().public_bytes_raw()
        self._key = point + sign(_key_bytes(cohort, name, point))
        self._pairs: dict[str, bytes] = {}
        self._last_round = 0

    def __repr__(self) -> str:
        return f"Member({self.name!r}, ...)"

    def key(self) -> bytes:
        """What all others need of this member in this run: a fresh X25519 key, signed. 96 bytes."""
        return self._key

    def agree(self, keys: Mapping[str, bytes]) -> None:
        """Takes everybody's keys, our own too. PeerError, with a name, unless each is its member's for this run."""
        if self._pairs:
            raise PeerError("keys came a second time in one run", "start a new run")
        _verify_names(keys, self.cohort.names, "key")
        owners: dict[bytes, str] = {}
        for name in self.cohort.names:
            point = _verified_point(self.cohort, name, keys[name])
            if point in owners:
                raise PeerError(f"{name} sent {owners[point]}'s key as its own", "start a new run without it")
            owners[point] = name
        if keys[self.name] != self._key:
            raise PeerError("our own key did not come back as we sent it", "start a new run")
        # Members that were shown different keys share no mask, so every pair's depends on all keys.
        shown = _hash(self.cohort.digest, *(keys[name] for name in self.cohort.names))
        self._pairs = {name: self._pair(name, keys[name], shown) for name in self.cohort.names if name != self.name}

    def mask(self, round: int, model: bytes, values: UInt64Array) -> tuple[UInt64Array, bytes]:
        """What this member sends for `values` (size,): (size + 1,) integers, uniform to all others, and its vouch.

        model: hash of what this member was given in this round. PeerError for a round that is not after the last one.
        """
        if not self._pairs:
            raise PeerError(f"round {round} was asked before the members' keys came", "start a new run")
        self._verify_new(round)
        words = np.append(values, np.uint64(1))
        for name, pair in self._pairs.items():
            mask = _stream(pair, round, model, len(words))
            words = words + mask if self.name < name else words - mask
        return words, self.vouch(round, model, _word_bytes(words))

    def vouch(self, round: int, model: bytes, sent: bytes) -> bytes:
        """Our signature under having been given this model in this round and having sent this. Once a round."""
        self._verify_new(round)
        if len(model) != 32:
            raise ValueError(f"a model's hash has 32 bytes, not {len(model)}")
        self._last_round = round
        digest = hashlib.sha256(sent).digest()
        signature = self._sign(_vouch_bytes(self.cohort, self.name, round, model, digest))
        return _Vouch(round, model, digest, signature).to_bytes()

    def check(self, round: int, model: bytes, vouched: Mapping[str, bytes]) -> dict[str, bytes]:
        """The hash of what each member sent in this round, if all were given the same model as we.

        PeerError for a vouch that is missing, not signed by its member or of another round; DisagreementError, with the
        names, where others were given another model.
        """
        _verify_names(vouched, self.cohort.names, "vouch")
        told = {name: verify_vouch(self.cohort, name, round, vouched[name]) for name in self.cohort.names}
        others = [name for name, (theirs, _) in told.items() if theirs != model]
        if others:
            raise DisagreementError(
                f"in round {round} the coordinator gave {', '.join(others)} another model than {self.name}",
                "the run ends and its models are not used; ask the coordinator's operator",
            )
        return {name: sent for name, (_, sent) in told.items()}

    def total(
        self,
        round: int,
        model: bytes,
        vouched: Mapping[str, bytes],
        masked: Mapping[str, UInt64Array],
    ) -> UInt64Array:
        """The sum of everybody's values in this round, (size,), added up here from what each member signed.

        The errors of `check`; PeerError, with the name, for an answer that is not the one its member signed.
        """
        sent = self.check(round, model, vouched)
        _verify_names(masked, self.cohort.names, "answer")
        for name, words in masked.items():
            if words.dtype != np.uint64 or hashlib.sha256(_word_bytes(words)).digest() != sent[name]:
                raise PeerError(
                    f"what came as {name}'s answer to round {round} is not what {name} signed",
                    "the coordinator altered or swapped it; start a new run",
                )
        return add(masked, self.cohort.names, len(masked[self.name]) - 1)

    def _verify_new(self, round: int) -> None:
        if not self._last_round < round < 2**63:
            raise PeerError(
                f"round {round} was asked after round {self._last_round}: a round is answered once, in order",
                "the coordinator repeated a round; start a new run",
            )

    def _pair(self, name: str, key: bytes, shown: bytes) -> bytes:
        try:
            shared = self._secret.exchange(X25519PublicKey.from_public_bytes(key[:_POINT_BYTES]))
        except ValueError:
            # RFC 7748 section 6.1: a point of small order gives the same secret to everybody.
            raise PeerError(f"{name}'s key is a point of low order, which hides nothing", "start a new run") from None
        first, second = sorted((self.name, name))
        return HKDF(SHA256(), 32, self.cohort.contract, _tied(_PAIR, shown, first.encode(), second.encode())).derive(
            shared
        )


def _verified_point(cohort: Cohort, name: str, key: bytes) -> bytes:
    point, signature = key[:_POINT_BYTES], key[_POINT_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(cohort.identities[name]).verify(signature, _key_bytes(cohort, name, point))
    except (InvalidSignature, ValueError):
        raise PeerError(
            f"what came as {name}'s key is not signed by {name} for this contract, run and cohort",
            "the coordinator altered or swapped it, or that member means another contract; compare what both see of it",
        ) from None
    return point


def _stream(pair: bytes, round: int, model: bytes, n: int) -> UInt64Array:
    """The n integers that two members share in this round of this model."""
    key = HKDF(SHA256(), 32, None, _tied(_MASK, struct.pack("<QQ", round, n), model)).derive(pair)
    # One key, one stream: the nonce has nothing to tell apart.
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8 * n))
    return np.frombuffer(stream, "<u8")


def _verify_names(came: Iterable[str], names: Iterable[str], what: str) -> None:
    came, expected = set(came), set(names)
    if missing := sorted(expected - came):
        raise PeerError(
            f"the {what} of {', '.join(missing)} is missing, and a sum without it would be of another cohort",
            "the run ends; start another when all are there, or agree on a new contract without that party",
        )
    if extra := sorted(came - expected):
        raise PeerError(f"a {what} came of {', '.join(extra)}, whom the contract does not name", "start a new run")


def _key_bytes(cohort: Cohort, name: str, point: bytes) -> bytes:
    return _tied(_KEY, cohort.digest, name.encode(), point)


def _vouch_bytes(cohort: Cohort, name: str, round: int, model: bytes, sent: bytes) -> bytes:
    return _tied(_VOUCH, cohort.digest, name.encode(), struct.pack("<Q", round), model, sent)


def _word_bytes(words: UInt64Array) -> bytes:
    return words.astype("<u8", copy=False).tobytes()


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(_tied(*parts)).digest()


def _tied(*parts: bytes) -> bytes:
    """The parts in one string that no other parts have: each with its length in front."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)
