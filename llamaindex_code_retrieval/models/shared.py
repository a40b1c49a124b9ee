"""``SharedBase``: encoders that a process loads once for equal settings and unchanged files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, Pooling, Precision
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import locate, locate_adapter

_encoders: WeakValueDictionary[Hashable, Encoder] = WeakValueDictionary()
_lock = threading.Lock()


class SharedBase:
    """A base encoder, shared by all callers that load it with equal settings, while one of them uses it.

    Training must not use it, because it would change the weights of the others.
    """

    def __init__(self, encoder: Encoder, key: Hashable) -> None:
        self.encoder = encoder
        self._key = key

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        device: str | None,
        precision: Precision,
        pooling: Pooling | None,
        max_query_tokens: int | None,
        max_code_tokens: int | None,
    ) -> Self:
        """Load a base; see :meth:`Encoder.from_pretrained`."""
        settings = (device, precision, pooling, max_query_tokens, max_code_tokens)
        key = (name_or_path, settings, _file_states(locate(name_or_path)))

        def load() -> Encoder:
            return Encoder.from_pretrained(
                name_or_path,
                device=device,
                precision=precision,
                pooling=pooling,
                max_query_tokens=max_query_tokens,
                max_code_tokens=max_code_tokens,
            )

        return cls(_shared(key, load), key)

    def with_adapter(self, adapter: str | Path, *, merge: bool) -> Encoder:
        """Return an encoder of this base with ``adapter``, or the base for "none"; see :meth:`Encoder.with_adapter`."""
        if adapter == NO_ADAPTER:
            return self.encoder
        folder = locate_adapter(adapter)
        key = (self._key, str(folder), merge, _file_states(folder))
        return _shared(key, lambda: self.encoder.with_adapter(folder, merge=merge))


def _shared(key: Hashable, load: Callable[[], Encoder]) -> Encoder:
    with _lock:
        encoder = _encoders.get(key)
        if encoder is None:
            encoder = _encoders[key] = load()
        return encoder


def _file_states(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return name, inode, size and modification time of the files of a model, to notice that one has changed.

    An encoder depends only on the files in the folder itself and in ``1_Pooling``.
    """
    files = sorted(file for file in (*folder.iterdir(), *folder.glob("1_Pooling/*")) if file.is_file())
    states = ((file.name, file.stat()) for file in files)
    return tuple((name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states)
