"""``SharedBase``: encoders that a process loads once for equal settings and unchanged files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, Pooling, Precision, Runtime
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError
from llamaindex_code_retrieval.models.locate import locate, locate_adapter
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig
from llamaindex_code_retrieval.models.runtime import (
    check_runtime,
    graph_or_none,
    load_graph_encoder,
    load_graph_student,
    reason_for_torch,
)
from llamaindex_code_retrieval.models.spec import read_spec
from llamaindex_code_retrieval.models.text_encoder import TextEncoder

if TYPE_CHECKING:  # torch is slow to import
    from llamaindex_code_retrieval.models.encoder import Encoder

Loaded = TypeVar("Loaded", bound=TextEncoder)

_encoders: WeakValueDictionary[Hashable, TextEncoder] = WeakValueDictionary()
_lock = threading.RLock()


class SharedBase:
    """The encoders of a base, shared by all callers that load it with equal settings, while one of them uses it.

    Training must not use them, because it would change the weights of the others.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        device: str | None = None,
        precision: Precision = "auto",
        pooling: Pooling | None = None,
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
        runtime: Runtime = "auto",
    ) -> None:
        """Read the base's configuration; weights are loaded with an encoder.

        Raises:
            ValueError: no such base, an option that does not fit it, or an unknown runtime or precision; a runtime
                "openvino" that this device or processor lacks.
        """
        self._name = name_or_path
        self._device = device
        self._precision = precision
        self._runtime = runtime
        self._folder = locate(name_or_path)
        self._spec = read_spec(
            self._folder,
            name=name_or_path,
            pooling=pooling,
            max_query_tokens=max_query_tokens,
            max_code_tokens=max_code_tokens,
        )
        self._reason = reason_for_torch(device, precision)
        check_runtime(runtime, self._reason)
        settings = (device, precision, pooling, max_query_tokens, max_code_tokens)
        self._key: Hashable = (name_or_path, settings, _file_states(self._folder))
        self._kept: dict[Hashable, Encoder] = {}

    def with_adapter(self, adapter: str | Path, *, merge: bool) -> TextEncoder:
        """Return an encoder of this base with ``adapter``, or the bare base for "none".

        Without ``merge`` torch computes the adapter beside the base's weights; see :meth:`Encoder.with_adapter`.

        Raises:
            ValueError: see :meth:`Encoder.with_adapter`; a model that ``runtime="openvino"`` cannot express.
        """
        folder = None if adapter == NO_ADAPTER else locate_adapter(adapter)
        key = ("graph", self._key, _adapter_key(folder, merge))

        def load() -> TextEncoder:
            if not merge and folder is not None:
                raise UnsupportedModelError("an adapter that is not merged")
            return _shared(key, lambda: self._graph_encoder(folder))

        graph = self._graph_or_none(load)
        return self._torch_encoder(folder, merge=merge, precision=self._precision) if graph is None else graph

    def _graph_or_none(self, load: Callable[[], TextEncoder]) -> TextEncoder | None:
        return graph_or_none(load, runtime=self._runtime, reason=self._reason, name=self._name, computed="vectors")

    def torch_encoder(self, adapter: str | Path, *, merge: bool) -> Encoder:
        """Return a torch encoder of this base with ``adapter``, whatever the runtime is."""
        folder = None if adapter == NO_ADAPTER else locate_adapter(adapter)
        return self._torch_encoder(folder, merge=merge, precision=self._precision)

    def student(
        self,
        folder: Path,
        config: QueryEncoderConfig,
        *,
        load_torch: Callable[[QueryEncoderConfig, Encoder], TextEncoder],
    ) -> TextEncoder:
        """Return the query encoder in ``folder``, a student of an encoder of this base that has a backbone.

        ``load_torch`` loads it from the bare base.

        Raises:
            ValueError: damaged files; a student that ``runtime="openvino"`` cannot express.
        """

        def in_torch(config: QueryEncoderConfig, precision: Precision) -> TextEncoder:
            return load_torch(config, self._torch_encoder(None, merge=True, precision=precision))

        def load() -> TextEncoder:
            return load_graph_student(
                self._folder,
                self._spec,
                folder,
                config,
                name=self._name,
                precision=self._precision,
                load_torch=lambda: in_torch(replace(config, int8=False), "fp32"),
            )

        key = ("student", self._key, _adapter_key(folder, merge=True))
        graph = self._graph_or_none(lambda: _shared(key, load))
        return in_torch(config, self._precision) if graph is None else graph

    def _graph_encoder(self, adapter: Path | None) -> TextEncoder:
        return load_graph_encoder(
            self._folder,
            self._spec,
            name=self._name,
            adapter=adapter,
            precision=self._precision,
            load_torch=lambda: self._torch_encoder(adapter, merge=True, precision="fp32"),
        )

    def _torch_encoder(self, adapter: Path | None, *, merge: bool, precision: Precision) -> Encoder:
        from llamaindex_code_retrieval.models.encoder import Encoder

        key = (self._key, precision)

        def load() -> Encoder:
            return Encoder.from_pretrained(
                self._name,
                device=self._device,
                precision=precision,
                pooling=self._spec.pooling,
                max_query_tokens=self._spec.max_query_tokens,
                max_code_tokens=self._spec.max_code_tokens,
            )

        base = _shared(key, load)
        if precision == self._precision:
            self._kept[key] = base  # other adapters share its weights
        if adapter is None:
            return base
        return _shared((key, _adapter_key(adapter, merge)), lambda: base.with_adapter(adapter, merge=merge))


def _shared(key: Hashable, load: Callable[[], Loaded]) -> Loaded:
    with _lock:
        encoder = _encoders.get(key)
        if encoder is None:
            encoder = _encoders[key] = load()
        return encoder  # type: ignore[return-value]  # a key belongs to one type


def _adapter_key(folder: Path | None, merge: bool) -> Hashable:
    return None if folder is None else (str(folder), merge, _file_states(folder))


def _file_states(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return name, inode, size and modification time of the files of a model, to notice that one has changed.

    An encoder depends only on the files in the folder itself and in ``1_Pooling``.
    """
    files = sorted(file for file in (*folder.iterdir(), *folder.glob("1_Pooling/*")) if file.is_file())
    states = ((file.name, file.stat()) for file in files)
    return tuple((name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states)
