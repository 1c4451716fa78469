"""One file to its documents, by suffix: plain text, JSON Lines (also gzipped), Parquet.

No large file is loaded as a whole. Plain text of more than `WHOLE` bytes comes in pieces, each a document of its own;
JSON Lines come by line; Parquet by groups of rows.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO, Any, cast

from eco.data.sources.contract import TEXT_FIELDS, SourceOptions

WHOLE = 1 << 20
"""Bytes up to which a plain text file is one document."""

PIECE = 1 << 16
"""Longest piece of a larger one, in bytes, cut at a line break where there is one; short enough that the held-out share
of a single large file is met."""

SUFFIXES = (".py", ".txt", ".md", ".jsonl", ".jsonl.gz", ".parquet")

_PROBE = 8192  # bytes looked at to tell binary from text, as git does
_ROWS = 256  # Parquet rows in memory at a time


def files_below(folder: Path, without: Set[str] = frozenset()) -> Iterator[Path]:
    """All files at any depth, hidden ones, `__pycache__` and the folders named in `without` left out; unordered."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in {"__pycache__", *without}]
        found = (Path(parent, name) for name in files if not name.startswith("."))
        yield from (path for path in found if path.is_file() or path.is_symlink())  # no pipes, which would wait forever


def can_read(path: Path) -> bool:
    """Whether the name ends in one of `SUFFIXES`."""
    return path.name.lower().endswith(SUFFIXES)


def read_file(path: Path, options: SourceOptions) -> Iterator[str]:
    """The documents of one file that `can_read` accepts.

    Files that cannot be opened, that hold a zero byte near their start, and texts that are not UTF-8 or are empty are
    counted in `options.skipped` and left out.

    Raises:
        ValueError: a malformed line or file, or a record without its text field; the message says where.
    """
    name = path.name.lower()
    read = _parquet if name.endswith(".parquet") else _text_file
    try:
        for text in read(path, options):
            if text is None:
                options.skipped["undecodable"] += 1
            elif not text:
                options.skipped["empty"] += 1
            else:
                yield text
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    except OSError:
        options.skipped["unreadable"] += 1


def _text_file(path: Path, options: SourceOptions) -> Iterator[str | None]:
    name = path.name.lower()
    read = _lines if name.endswith((".jsonl", ".jsonl.gz")) else _pieces
    with cast(IO[bytes], gzip.open(path) if name.endswith(".gz") else open(path, "rb")) as stream:
        if b"\0" in stream.read(_PROBE):
            options.skipped["binary"] += 1
        else:
            stream.seek(0)
            yield from read(path, stream, options)


def _pieces(path: Path, stream: IO[bytes], options: SourceOptions) -> Iterator[str | None]:
    if os.fstat(stream.fileno()).st_size <= WHOLE:
        yield _decode(stream.read())
        return
    rest = b""
    while block := stream.read(PIECE - len(rest)):
        piece = rest + block
        whole = len(piece) < PIECE
        cut = len(piece) if whole else _last_break(piece)
        yield _decode(piece[:cut])
        rest = piece[cut:]
    if rest:
        yield _decode(rest)


def _last_break(piece: bytes) -> int:
    """Where to cut: behind the last line break, or else in front of the last character."""
    if cut := piece.rfind(b"\n") + 1:
        return cut
    cut = len(piece) - 1
    while cut > 1 and piece[cut] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        cut -= 1
    return cut


def _lines(path: Path, stream: IO[bytes], options: SourceOptions) -> Iterator[str | None]:
    for number, line in enumerate(stream, start=1):
        text = _decode(line)
        if text is None:
            yield None
        elif not text.isspace():
            where = f"{path}, line {number}"
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:  # bad syntax, a number too long, nested too deep
                raise ValueError(f"{where}: malformed JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{where}: each line must be an object with a text field, not {text[:40].strip()!r}")
            yield _text_of(record, text_field(list(record), options, where), where)


def _parquet(path: Path, options: SourceOptions) -> Iterator[str | None]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs pyarrow; install it with: pip install 'eco-lm[parquet]'") from error
    with open(path, "rb") as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            column = text_field(table.schema_arrow.names, options, str(path))
            for rows in table.iter_batches(batch_size=_ROWS, columns=[column]):
                for row in rows.to_pylist():
                    yield _text_of(row, column, str(path))
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged Parquet file ({error})") from error


def text_field(fields: list[str], options: SourceOptions, where: str) -> str:
    """The field of a record that holds its text.

    Raises:
        ValueError: the record has none of the wanted names; the message lists what it has.
    """
    wanted = (options.text_field,) if options.text_field else TEXT_FIELDS
    for name in wanted:
        if name in fields:
            return name
    there = ", ".join(sorted(fields)) or "nothing"
    raise ValueError(f"{where}: no field {' or '.join(wanted)} among: {there}; set data.text_field to the right one")


def _text_of(record: dict[str, Any], name: str, where: str) -> str | None:
    text = record[name]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: field {name} must hold text, not {type(text).__name__}")
    return _decode((text or "").encode("utf-8", "surrogatepass"))  # JSON can spell lone surrogates, UTF-8 cannot


def _decode(data: bytes) -> str | None:
    """The text, or None where the bytes are not UTF-8. Line ends stay as they are."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
