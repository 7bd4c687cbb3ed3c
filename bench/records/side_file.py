"""Results other than runs (studies, memory, peers, accepted counts): one JSON object a file, with a digest of its content.

A damaged or edited file is an error of one line that names the file and how to restore it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.errors import UserError
from bench.records.record import content_digest

_SCHEMA, _DIGEST = "schema", "sha256"


@dataclass(frozen=True, kw_only=True)
class SideFile:
    """One kind of file: its required keys, how to restore it, and the schema that this version reads."""

    needs: tuple[str, ...]
    remedy: str
    schema: int = 1

    def sealed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content to write: plain JSON, schema and digest first."""
        plain = json.loads(json.dumps({_SCHEMA: self.schema, **content}))
        return {_SCHEMA: self.schema, _DIGEST: content_digest(plain), **{k: v for k, v in plain.items() if k != _SCHEMA}}

    def read(self, path: Path) -> dict[str, Any] | None:
        """The content of a file; None where there is no file, UserError where it is damaged."""
        try:
            if not path.exists():
                return None
            if not path.is_file():
                raise ValueError("not a regular file")
            return self._content(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"{path} is damaged ({reason}); {self.remedy}") from error

    def _content(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        digest = found.pop(_DIGEST, None)
        if digest is None:
            raise ValueError("it has no digest, or an older version wrote it")
        if digest != content_digest(found):
            raise ValueError("its content is not what its digest says")
        if (schema := found.pop(_SCHEMA, None)) != self.schema:
            raise ValueError(f"schema {schema!r}, this version reads {self.schema}")
        if absent := [name for name in self.needs if name not in found]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        return found


EXPERIMENTS = SideFile(needs=("experiments",), remedy="`python -m bench claims --measure` makes it again")
MEMORY = SideFile(needs=("rows", "cost", "laws", "device"), remedy="`python -m bench memory` makes it again")
PEERS = SideFile(
    needs=("libraries", "memory", "steps", "launches", "overhead", "stopping", "baselines", "harness"),
    remedy="`python -m bench peers` makes it again",
)
COUNTS = SideFile(
    needs=(),
    remedy="restore it from version control, or remove it: `python -m bench gate accept --why REASON` makes it again",
)
