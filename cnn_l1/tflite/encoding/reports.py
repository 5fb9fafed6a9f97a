"""What encoding a file gave: tensors encoded and kept, sizes before and after, errors."""

import dataclasses

from cnn_l1.errors import CnnL1Error


class EncodeError(CnnL1Error, ValueError):
    """A file that cannot be encoded, or is not what it should be."""


@dataclasses.dataclass(frozen=True)
class EncodedTensor:
    """A tensor that is stored encoded.

    Attributes:
        name: Its name in the file.
        elements: How many elements it has.
        zeros: How many of them equal their zero point, and so take one bit each.
        bytes_before: Its size in the plain file.
        bytes_after: Its size in the encoded file: bits, header and values.
    """

    name: str
    elements: int
    zeros: int
    bytes_before: int
    bytes_after: int


@dataclasses.dataclass(frozen=True)
class KeptTensor:
    """Weights that are stored as they were.

    Attributes:
        name: The tensor's name in the file.
        bytes: Its size.
        reason: Why it is not encoded.
    """

    name: str
    bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class EncodeReport:
    """What encoding saves and costs. Sizes are in bytes.

    Attributes:
        bytes_before: Size of the plain file: flash.
        bytes_after: Size of the encoded file; the same if encoding saves nothing.
        gzip_before: The plain file gzipped at level 9: what an update over the air would
            send. Flash holds the file itself, unless a loader unpacks it to RAM.
        gzip_after: The encoded file gzipped.
        encoded: The tensors that are stored encoded.
        kept: The weights that are not.
        decoded_bytes: The most that one DECODE writes at once, each tensor rounded up to
            16 bytes: what `SetDecompressionMemory` needs to keep it out of the arena.
        arena_before: Arena (RAM) of the plain file on this host; see `micro.arena_bytes`.
            `None` where the files were not run.
        arena_after: Arena of the encoded file.
        arena_alternate: Arena of the encoded file when `decoded_bytes` of other memory are
            given.
    """

    bytes_before: int
    bytes_after: int
    gzip_before: int
    gzip_after: int
    encoded: tuple[EncodedTensor, ...]
    kept: tuple[KeptTensor, ...]
    decoded_bytes: int
    arena_before: int | None = None
    arena_after: int | None = None
    arena_alternate: int | None = None

    def __str__(self) -> str:
        lines = [
            f"encoded  {one.name}: {one.bytes_before} -> {one.bytes_after} bytes, "
            f"{one.zeros} of {one.elements} zero"
            for one in self.encoded
        ]
        lines += [f"kept     {one.name}: {one.bytes} bytes, {one.reason}" for one in self.kept]
        part = self.bytes_after / self.bytes_before
        lines.append(f"flash    {self.bytes_before} -> {self.bytes_after} bytes ({part:.1%})")
        lines.append(f"gzip     {self.gzip_before} -> {self.gzip_after} bytes")
        if self.arena_before is not None:
            line = f"arena    {self.arena_before} -> {self.arena_after} bytes"
            if self.encoded:
                line += f", or {self.arena_alternate} besides {self.decoded_bytes} of other memory"
            lines.append(line)
        if not self.encoded:
            lines.append("No tensor pays: the file is as it was.")
        return "\n".join(lines)
