"""Read from a checkpoint's files how to turn its hidden states into vectors: architecture, pooling, limits, prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import BASES, Architecture, Pooling, architecture_of
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED, TRAIN_CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """How an encoder reads texts and pools their hidden states. Token limits include the special tokens."""

    architecture: Architecture
    pooling: Pooling
    max_query_tokens: int
    max_code_tokens: int
    positions: int | None
    """Tokens that the backbone can read; ``None`` where it has no limit."""
    query_prompt: str = ""
    code_prompt: str = ""


def read_spec(
    folder: Path,
    *,
    name: str,
    pooling: Pooling | None = None,
    max_query_tokens: int | None = None,
    max_code_tokens: int | None = None,
) -> EncoderSpec:
    """Return the spec of the base in ``folder``.

    An option that is ``None`` is read from the table of known bases, which has ``name`` or not, then from the
    sentence-transformers files; last come the architecture's pooling and as many tokens as fit, at most 512.

    Raises:
        ValueError: a checkpoint that this package cannot read, or options that do not fit it.
    """
    config = read_json(folder / CONFIG, remedy=DAMAGED)
    known = BASES.get(name.partition("@")[0])
    architecture = known.architecture if known else _architecture(folder, config, name)
    positions = _positions(config, architecture)
    st_limit, st_pooling, prompts = _sentence_transformers_settings(folder)
    default = min(st_limit or 512, positions or 512)
    queries = (known.max_query_tokens if known else default) if max_query_tokens is None else max_query_tokens
    codes = (known.max_code_tokens if known else default) if max_code_tokens is None else max_code_tokens
    for field, value in (("max_query_tokens", queries), ("max_code_tokens", codes)):
        if value < 8 or (positions is not None and value > positions):
            limit = "" if positions is None else f" and at most the model's {positions} positions"
            raise ValueError(f"{field} must be at least 8{limit}, got {value}")
    if pooling not in (None, "cls", "mean"):
        raise ValueError(f"pooling must be 'cls' or 'mean', got {pooling!r}")
    by_architecture: Pooling = "cls" if architecture == "codet5p-embedding" else "mean"
    return EncoderSpec(
        architecture=architecture,
        pooling=pooling or (known.pooling if known else st_pooling or by_architecture),
        max_query_tokens=queries,
        max_code_tokens=codes,
        positions=positions,
        query_prompt=prompts.get("query", ""),
        code_prompt=prompts.get("document", prompts.get("passage", "")),
    )


def check_virtual_tokens(count: int, spec: EncoderSpec) -> None:
    """Raise a ValueError if virtual tokens push a text of full length beyond the last position of the backbone."""
    limit = max(spec.max_query_tokens, spec.max_code_tokens)
    if spec.positions is not None and limit + count > spec.positions:
        raise ValueError(
            f"{limit} tokens and the adapter's {count} virtual ones do not fit the model's {spec.positions} "
            "positions; lower max_query_tokens and max_code_tokens"
        )


def _architecture(folder: Path, config: dict[str, Any], name: str) -> Architecture:
    if (folder / TRAIN_CONFIG).is_file():  # a base that this package trained
        architecture: Architecture = read_json(folder / TRAIN_CONFIG, remedy=DAMAGED)["base"]["architecture"]
        return architecture
    return architecture_of(config.get("model_type", ""), folder_name=Path(name).name)


def _positions(config: dict[str, Any], architecture: Architecture) -> int | None:
    if architecture in ("t5", "codet5p-embedding"):  # their positions are relative
        return None
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
    if config.get("model_type") in ("roberta", "camembert", "mpnet", "xlm-roberta"):
        positions -= 2  # these count positions from the padding index on
    return positions


def _sentence_transformers_settings(folder: Path) -> tuple[int | None, Pooling | None, dict[str, str]]:
    """Return the token limit, pooling and prompts of a sentence-transformers folder; ``None`` where it sets none."""
    modules = _read(folder / "modules.json", kind=list) or []
    for module in modules:
        if module["type"].rsplit(".", 1)[-1] not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{folder} has a sentence-transformers module {module['type']}, which this package does not apply; "
                "its vectors would differ from the published ones, so it is refused"
            )
    limit: int | None = (_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    prompts: dict[str, str] = (_read(folder / "config_sentence_transformers.json") or {}).get("prompts") or {}
    pooling: Pooling | None = None
    modes = _read(folder / "1_Pooling" / "config.json")
    if modes is not None:
        if modes.get("pooling_mode_cls_token") or modes.get("pooling_mode") == "cls":
            pooling = "cls"
        elif modes.get("pooling_mode_mean_tokens") or modes.get("pooling_mode") == "mean":
            pooling = "mean"
        else:
            raise ValueError(f"{folder}/1_Pooling/config.json sets a pooling other than cls or mean: {modes}")
    return limit, pooling, prompts


def _read(path: Path, *, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """Return the content of a JSON file, ``None`` where there is none."""
    return read_json(path, remedy=DAMAGED, kind=kind) if path.is_file() else None
