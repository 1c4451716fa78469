"""DOWNLOAD_INSTRUCTIONS.md: which archives lie in a folder, how to check a copy of one, and how to use it."""

import shlex
from pathlib import Path

from eco.files import replacing, sha256
from eco.ship.archive import SUFFIX

INSTRUCTIONS = "DOWNLOAD_INSTRUCTIONS.md"


def write_instructions(folder: Path) -> None:
    """Lists all archives that `folder` holds now."""
    archives = sorted(folder.glob(f"*{SUFFIX}"))
    rows = [(path.name, path.stat().st_size, sha256(path)) for path in archives]
    with replacing(folder / INSTRUCTIONS) as stream:
        stream.write(_page(rows))


def _page(rows: list[tuple[str, int, str]]) -> str:
    table = "\n".join(f"| `{name}` | {size:,} | `{digest}` |" for name, size, digest in rows)
    sums = "\n".join(f"{digest}  {name}" for name, _, digest in rows)
    archive, bundle = rows[0][0], rows[0][0].removesuffix(SUFFIX)
    first, model = shlex.quote(archive), shlex.quote(bundle)
    return f"""# Packed models

| archive | bytes | SHA-256 |
|---|---:|---|
{table}

Check that a download is whole; on macOS the command is `shasum -a 256 -c`:

```sh
sha256sum -c <<'END'
{sums}
END
```

Check that the model in it is the one that was trained. This unpacks it into a temporary folder, loads it in a process
of its own, and compares digests, parameters, logits and held-out loss with what was packed:

```sh
eco validate {first}
```

Use it:

```sh
tar xzf {first}
eco generate {model} --prompt TEXT
```

`{bundle}/README.md` is the model card: data, figures, limits, licence.
"""
