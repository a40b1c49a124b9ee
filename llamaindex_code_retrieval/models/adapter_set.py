"""``AdapterSet``: the encoders of one base, with an adapter for each programming language."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, Pooling, Precision, Runtime
from llamaindex_code_retrieval.models.locate import is_static_model, locate_adapter
from llamaindex_code_retrieval.models.short_vectors import check_dimensions, short_fingerprint, warn_if_untrained

if TYPE_CHECKING:  # a query encoder that is a table works without torch, which is slow to import
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig
    from llamaindex_code_retrieval.models.text_encoder import TextEncoder


class AdaptableBase(Protocol):
    """A base of encoders: a ``SharedBase``, or a ``StaticBase``, which takes no adapter."""

    def with_adapter(self, adapter: str | Path, *, merge: bool) -> TextEncoder:
        """Return an encoder of this base with ``adapter``, or without one for "none"."""

    def torch_encoder(self, adapter: str | Path, *, merge: bool) -> Encoder:
        """Return the same encoder as a torch module."""

    def student(
        self,
        folder: Path,
        config: QueryEncoderConfig,
        *,
        load_torch: Callable[[QueryEncoderConfig, Encoder], TextEncoder],
    ) -> TextEncoder:
        """Return the query encoder in ``folder``, which has a backbone; ``load_torch`` loads it from the bare base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """The settings from which an :class:`AdapterSet` is loaded; ``None`` stands for the default of the base."""

    model_name: str
    adapter: str = NO_ADAPTER
    """The adapter of every language without an adapter of its own."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Adapters by language."""
    pooling: Pooling | None = None
    precision: Precision = "auto"
    max_query_tokens: int | None = None
    max_code_tokens: int | None = None
    device: str | None = None
    merge_adapter: bool = True
    runtime: Runtime = "auto"
    dimensions: int | None = None
    """Length to which vectors are cut by the user of the set; ``None`` for all of them."""
    fingerprint: str | None = None
    """The expected :func:`combined_fingerprint`."""

    @property
    def default_fingerprint(self) -> str | None:
        """The fingerprint of the default encoder, if all that describes its vectors is known without loading it."""
        is_complete = None not in (self.pooling, self.max_query_tokens, self.max_code_tokens)
        return self.fingerprint if is_complete and not self.adapters and self.dimensions is None else None


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A default encoder, under the language ``""``, and one for each language that has an adapter of its own.

    All share the base's weights. ``settings`` hold the values in force.
    """

    settings: AdapterSettings
    base: AdaptableBase
    encoders: Mapping[str, TextEncoder]

    @classmethod
    def load(cls, settings: AdapterSettings) -> Self:
        """Load the base and all adapters.

        Raises:
            ValueError: see :meth:`Encoder.from_pretrained`; an adapter that does not fit; a setting without effect on a
                static model; a fingerprint that is not the expected one.
        """
        is_static = is_static_model(settings.model_name)
        if is_static:
            _check_static(settings)
        adapters = {"": settings.adapter, **settings.adapters}
        for language, adapter in adapters.items():  # fails before the base is loaded
            with _language_in_errors(language):
                if adapter != NO_ADAPTER:
                    warn_if_untrained(locate_adapter(adapter), settings.dimensions)
        base = _static_base(settings) if is_static else _transformer_base(settings)
        encoders: dict[str, TextEncoder] = {}
        for language, adapter in adapters.items():
            with _language_in_errors(language):
                encoders[language] = base.with_adapter(adapter, merge=settings.merge_adapter)
        default = encoders[""]
        check_dimensions(settings.dimensions, default.dim)
        fingerprint = combined_fingerprint(encoders, settings.dimensions)
        if settings.fingerprint not in (None, fingerprint):
            raise ValueError(
                f"model {settings.model_name!r} now has fingerprint {fingerprint}, not {settings.fingerprint} as "
                "expected: its weights, adapter, tokenizer or limits have changed; leave fingerprint out to accept that"
            )
        in_force = replace(
            settings,
            pooling=default.pooling,
            precision=default.precision,
            max_query_tokens=default.max_query_tokens,
            max_code_tokens=default.max_code_tokens,
            fingerprint=fingerprint,
        )
        return cls(in_force, base, encoders)

    @property
    def default(self) -> TextEncoder:
        """The encoder of every language without an adapter of its own."""
        return self.encoders[""]

    def torch_default(self) -> Encoder:
        """Return the default encoder as a torch module; it is loaded if OpenVINO computes the vectors."""
        return self.base.torch_encoder(self.settings.adapter, merge=self.settings.merge_adapter)

    def encoder_for(self, language: str) -> TextEncoder:
        """Return the encoder of ``language``."""
        return self.encoders.get(language, self.default)

    def only(self, language: str) -> AdapterSet:
        """Return a set with the encoder of ``language`` for all languages."""
        encoder = self.encoder_for(language)
        adapter = self.settings.adapters.get(language, self.settings.adapter)
        return self._with({"": encoder}, adapter, {})

    def load_adapter(self, adapter: str | Path, language: str) -> TextEncoder:
        """Return an encoder of this base with ``adapter``, for :meth:`with_encoder`.

        Raises:
            ValueError: the adapter does not fit, see :meth:`Encoder.with_adapter`.
        """
        with _language_in_errors(language):
            return self.base.with_adapter(adapter, merge=self.settings.merge_adapter)

    def with_encoder(self, language: str, encoder: TextEncoder, adapter: str) -> AdapterSet:
        """Return a set in which ``language`` has this encoder, made with ``adapter``."""
        encoders = {**self.encoders, language: encoder}
        if not language:
            return self._with(encoders, adapter, self.settings.adapters)
        return self._with(encoders, self.settings.adapter, {**self.settings.adapters, language: adapter})

    def without(self, language: str) -> AdapterSet:
        """Return a set in which ``language`` has the default encoder."""
        encoders = {name: encoder for name, encoder in self.encoders.items() if name != language}
        adapters = {name: adapter for name, adapter in self.settings.adapters.items() if name != language}
        return self._with(encoders, self.settings.adapter, adapters)

    def _with(self, encoders: Mapping[str, TextEncoder], adapter: str, adapters: dict[str, str]) -> AdapterSet:
        fingerprint = combined_fingerprint(encoders, self.settings.dimensions)
        settings = replace(self.settings, adapter=adapter, adapters=adapters, fingerprint=fingerprint)
        return AdapterSet(settings, self.base, encoders)


def _transformer_base(settings: AdapterSettings) -> AdaptableBase:
    from llamaindex_code_retrieval.models.shared import SharedBase

    return SharedBase(
        settings.model_name,
        device=settings.device,
        precision=settings.precision,
        pooling=settings.pooling,
        max_query_tokens=settings.max_query_tokens,
        max_code_tokens=settings.max_code_tokens,
        runtime=settings.runtime,
    )


def _static_base(settings: AdapterSettings) -> AdaptableBase:
    from llamaindex_code_retrieval.models.static_model import StaticBase, StaticModel

    limits = {"max_query_tokens": settings.max_query_tokens, "max_code_tokens": settings.max_code_tokens}
    return StaticBase(StaticModel.load(settings.model_name, **limits))


def _check_static(settings: AdapterSettings) -> None:
    """Raise a ValueError that names the settings without effect on a static model, if there are any."""
    without_effect = {
        "adapter": settings.adapter != NO_ADAPTER,
        "adapters": bool(settings.adapters),
        "pooling": settings.pooling not in (None, "mean"),
        "precision": settings.precision not in ("auto", "fp32"),
        "device": settings.device is not None,
        "merge_adapter": not settings.merge_adapter,
        "runtime": settings.runtime != "auto",
    }
    if names := [name for name, is_set in without_effect.items() if is_set]:
        verb, them = ("has", "it") if len(names) == 1 else ("have", "them")
        raise ValueError(
            f"{settings.model_name} is a static embedding model, a table in which a CPU looks tokens up, so "
            f"{' and '.join(names)} {verb} no effect; leave {them} out"
        )


class LazyAdapterSet:
    """An :class:`AdapterSet` that is loaded on first use, once for all users of this object."""

    def __init__(self, settings: AdapterSettings) -> None:
        self._settings = settings
        self._loaded: AdapterSet | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, loaded: AdapterSet) -> Self:
        """Return one that is loaded already."""
        lazy = cls(loaded.settings)
        lazy._loaded = loaded
        return lazy

    @property
    def is_loaded(self) -> bool:
        """Whether the encoders are in memory."""
        return self._loaded is not None

    @property
    def settings(self) -> AdapterSettings:
        """The settings; after loading, with the values in force."""
        return self._settings if self._loaded is None else self._loaded.settings

    def load(self) -> AdapterSet:
        """Return the set, loaded if it is not; see :meth:`AdapterSet.load`."""
        with self._lock:
            if self._loaded is None:
                self._loaded = AdapterSet.load(self._settings)
            return self._loaded


def adapter_names(adapters: Mapping[str, str | Path]) -> dict[str, str]:
    """Return the names of adapters by language as strings.

    Raises:
        ValueError: not a mapping, a language that is not a word, or a name that is empty or of another type.
    """
    if not isinstance(adapters, Mapping):
        raise ValueError(f"adapters must map languages to adapters, {{'python': 'folder'}}, got {adapters!r}")
    for language in adapters:
        if not isinstance(language, str) or not language:
            raise ValueError(
                f"a language must be a word such as 'python', got {language!r}; use adapter= for the default"
            )
    return {language: adapter_name(adapter, language) for language, adapter in adapters.items()}


def adapter_name(adapter: str | Path, language: str) -> str:
    """Return the name of the adapter for ``language`` as a string; see :func:`adapter_names`."""
    if not isinstance(adapter, str | Path) or not str(adapter):
        whose = repr(language) if language else "other languages"
        raise ValueError(f"the adapter for {whose} must be a folder or a hub name, got {adapter!r}")
    return str(adapter)


def combined_fingerprint(encoders: Mapping[str, TextEncoder], dimensions: int | None = None) -> str:
    """Return the default's fingerprint if no language has another one, else a hash over all that differ from it.

    It is that of vectors cut to ``dimensions``.
    """
    default = encoders[""].fingerprint
    different = {language: e.fingerprint for language, e in encoders.items() if e.fingerprint != default}
    return short_fingerprint(json_hash(different | {"": default}) if different else default, dimensions)


@contextmanager
def _language_in_errors(language: str) -> Iterator[None]:
    """Name the language in the message of an error about its adapter."""
    try:
        yield
    except ValueError as error:
        if not language:
            raise
        raise ValueError(f"{error} (the adapter for {language!r})") from error
