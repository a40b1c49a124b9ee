"""Check from an adapter's files that it was made for a base."""

from __future__ import annotations

from pathlib import Path

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import Pooling, hub_name
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, DAMAGED, TRAIN_CONFIG
from llamaindex_code_retrieval.models.locate import is_hub_name


def check_adapter_base(folder: Path, *, name: str, fingerprint: str, pooling: Pooling) -> None:
    """Check that an adapter was trained on the base of this name and base fingerprint, and for this pooling.

    ``train_config.json`` says so for adapters of this package, ``base_model_name_or_path`` for others if it is a hub
    name. An adapter that says neither is accepted: only its weights have to fit.

    Raises:
        ValueError: the adapter was trained on another base or for another pooling.
    """
    if not (folder / TRAIN_CONFIG).is_file():
        trained_on = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED).get("base_model_name_or_path") or ""
        names = [hub_name(base.partition("@")[0]) for base in (trained_on, name)]
        if all(map(is_hub_name, names)) and names[0] != names[1]:
            raise ValueError(
                f"the adapter in {folder} was made for {trained_on!r}, not for {name!r}; load that base, or "
                f"correct base_model_name_or_path in its {ADAPTER_CONFIG} if both are the same model"
            )
        return
    base = read_json(folder / TRAIN_CONFIG, remedy=DAMAGED).get("base", {})
    if base.get("pooling", pooling) != pooling:
        raise ValueError(
            f"the adapter in {folder} was trained for pooling {base['pooling']!r}, this base pools by "
            f"{pooling!r}; pass pooling={base['pooling']!r}"
        )
    if base.get("fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"the adapter in {folder} was trained on {base.get('name')!r} with base fingerprint "
            f"{base['fingerprint']}, but this base, {name!r}, has {fingerprint}; "
            "load that base, or train an adapter for this one"
        )
