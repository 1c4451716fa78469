"""A library of one's own texts: each `.txt` or `.md` file is a document, a `.json` of the same name its metadata."""

from pathlib import Path

from eco.data.library.metadata import Metadata, read_metadata
from eco.data.library.recipes.contract import Collection, Entry
from eco.data.readers import files_below

FOLDER = None

SUFFIXES = (".txt", ".md")

GENERAL = "general"
"""Category of a document that lies in no sub-folder and names none."""


def collect(source: str) -> Collection:
    """The files at or below a path, ordered by path. Without metadata: the title is the file's name, the category its
    sub-folder, the subcategory the folders below that.

    Raises:
        ValueError: nothing is there; a text that is empty or not UTF-8; bad metadata.
    """
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise ValueError(f"--source: no such file or folder: {source!r}")
    root = path if path.is_dir() else path.parent
    found = files_below(path) if path.is_dir() else [path]
    texts = sorted(file for file in found if file.suffix.lower() in SUFFIXES)
    if not texts:
        raise ValueError(f"--source: {source!r} holds no file ending in {' or '.join(SUFFIXES)}")
    return Collection(path.name, tuple(Entry(_text(file), _metadata(file, root)) for file in texts))


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); convert it, or take it out of the source") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not text:
        raise ValueError(f"{path} is empty; take it out of the source")
    return text


def _metadata(path: Path, root: Path) -> Metadata:
    inside = path.relative_to(root)
    category, *below = inside.parts[:-1] or (GENERAL,)
    defaults = {"title": path.stem, "category": category, "subcategory": "/".join(below), "source": inside.as_posix()}
    about = path.with_suffix(".json")
    return read_metadata(about, **defaults) if about.exists() else Metadata.model_validate(defaults)
