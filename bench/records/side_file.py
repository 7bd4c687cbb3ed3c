"""Records next to the runs (experiments, memory, peers, accepted counts): one JSON object a file, with a digest of its content.

A flipped bit, a cut file or an edit by hand is one line that names the file and how to make it again, never another number.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.errors import UserError

_SCHEMA, _DIGEST = "schema", "sha256"


@dataclass(frozen=True, kw_only=True)
class SideFile:
    """One kind of file: the keys that it `needs`, how it is made `again`, and the `schema` that this version reads."""

    needs: tuple[str, ...]
    again: str
    schema: int = 1

    def sealed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content as it is to be written: plain JSON, with schema and digest first."""
        plain = json.loads(json.dumps({_SCHEMA: self.schema, **content}))
        return {_SCHEMA: self.schema, _DIGEST: _digest(plain), **{k: v for k, v in plain.items() if k != _SCHEMA}}

    def read(self, path: Path) -> dict[str, Any] | None:
        """The content of a file; None where there is none, UserError where it is not what was written."""
        try:
            if not path.exists():
                return None
            if not path.is_file():
                raise ValueError("not a regular file")
            return self._opened(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"{path} is damaged ({said}); {self.again}") from error

    def _opened(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        digest = found.pop(_DIGEST, None)
        if digest is None:
            raise ValueError("it has no digest, or an older version wrote it")
        if digest != _digest(found):
            raise ValueError("its content is not what its digest says")
        if (schema := found.pop(_SCHEMA, None)) != self.schema:
            raise ValueError(f"schema {schema!r}, this version reads {self.schema}")
        if absent := [name for name in self.needs if name not in found]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        return found


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


EXPERIMENTS = SideFile(needs=("experiments",), again="`python -m bench claims --measure` makes it again")
MEMORY = SideFile(needs=("rows", "cost", "laws", "device"), again="`python -m bench memory` makes it again")
PEERS = SideFile(
    needs=("libraries", "memory", "steps", "overhead", "baselines", "harness"), again="`python -m bench peers` makes it again"
)
COUNTS = SideFile(
    needs=(),
    again="restore it from version control, or remove it: `python -m bench gate accept --why REASON` makes it again",
)
