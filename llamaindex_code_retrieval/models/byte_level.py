"""Read the byte-level BPE of checkpoints without ``tokenizer.json``, as RoBERTa's and GPT-2's tokenizers do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import Architecture
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED, TOKENIZER_CONFIG

_VOCABULARY, _MERGES, _SPECIAL_TOKENS = "vocab.json", "merges.txt", "special_tokens_map.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ROBERTA = dict(zip(_ROLES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


def read_byte_level(folder: Path, architecture: Architecture) -> tuple[Tokenizer, str]:
    """Return the tokenizer of ``vocab.json`` and ``merges.txt``, and the token at the end of a text.

    Raises:
        FileNotFoundError: the checkpoint has no such files, or its tokenizer is of another kind.
        ValueError: damaged files.
    """
    paths = folder / _VOCABULARY, folder / _MERGES
    settings = _json(folder / TOKENIZER_CONFIG)
    if not all(path.is_file() for path in paths) or not _is_byte_level(folder, architecture, settings):
        raise FileNotFoundError(folder / _VOCABULARY)
    defaults = _GPT2 if architecture == "codesage" else _ROBERTA
    special = {name: token for name, token in (defaults | _json(folder / _SPECIAL_TOKENS) | settings).items() if token}
    try:
        tokenizer = Tokenizer(BPE.from_file(*map(str, paths)))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"{paths[0]} or {paths[1].name} is damaged ({error}); {DAMAGED}") from error
    prefix_space = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [special[role] for role in _ROLES if role in special]
    others = special.get("extra_special_tokens") or special.get("additional_special_tokens") or ()
    tokenizer.add_tokens([_added(token) for token in (*tokens, *others)])
    if architecture != "codesage":
        end, start = (_with_id(tokenizer, special[role]) for role in ("sep_token", "cls_token"))
        tokenizer.post_processor = processors.RobertaProcessing(end, start, True, prefix_space)
    return tokenizer, _name(special["eos_token"])


def _is_byte_level(folder: Path, architecture: Architecture, settings: Mapping[str, Any]) -> bool:
    if architecture in ("codesage", "codet5p-embedding"):
        return True
    kind = settings.get("tokenizer_class") or _json(folder / CONFIG).get("tokenizer_class")
    if kind is None:
        return _json(folder / CONFIG).get("model_type") == "roberta"
    return kind in ("RobertaTokenizer", "RobertaTokenizerFast")


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, empty where there is none."""
    content: dict[str, Any] = read_json(path, remedy=DAMAGED) if path.is_file() else {}
    return content


def _name(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _with_id(tokenizer: Tokenizer, token: str | Mapping[str, Any]) -> tuple[str, int]:
    """Return the name of an added token and its id."""
    return _name(token), tokenizer.get_vocab()[_name(token)]


def _added(token: str | Mapping[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    flags = {flag: bool(token[flag]) for flag in ("single_word", "lstrip", "rstrip", "normalized") if flag in token}
    return AddedToken(token["content"], special=True, **flags)
