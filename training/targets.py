"""The modules that adapters change, for each kind of backbone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The modules of a backbone that an adapter changes, as PEFT's regular expressions over full module names."""

    attention: str
    """Query and value projections (LoRA: Hu et al. 2021, section 7.1)."""
    linear: str
    """All linear layers of the transformer blocks."""
    ia3: str
    """Keys, values and the second feed-forward layer ((IA)3: Liu et al. 2022, section 3.3)."""
    ia3_feedforward: str
    """The modules of ``ia3`` whose input is scaled instead of their output."""


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
_GPT2_BLOCKS = Targets(  # query, key and value are one matrix
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
    """Return the targets in a backbone whose ``config.json`` has this ``model_type``.

    Raises:
        ValueError: the table has no such type.
    """
    if model_type in _OWN_TARGETS:
        return _OWN_TARGETS[model_type]
    if model_type in _BERT_SHAPED:
        return _BERT_BLOCKS
    raise ValueError(
        f"the modules of a {model_type!r} that an adapter changes are not known; name them with targets=, a regular "
        f"expression over module names (known types: {', '.join(sorted({*_OWN_TARGETS, *_BERT_SHAPED}))})"
    )
