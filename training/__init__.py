"""Training: pairs in, adapters, rerankers and query encoders out.

Pairs of a query and the code that answers it are mined from source code or loaded, and each function trains on them and
saves a folder that the runtime loads by its path:

    from llamaindex_code_retrieval import CodeEmbedding
    from llamaindex_code_retrieval.training import AdapterConfig, load_pairs, mine, train_adapter

    pairs = mine(["path/to/repository"]).pairs  # or load_pairs("pairs.jsonl", "hf:org/name")
    run = train_adapter(pairs, "my-adapter", adapter=AdapterConfig(rank=8))
    print(run.before, run.after)
    embedding = CodeEmbedding(adapter="my-adapter")

The public names load on first use, so that importing the package does not import torch.

To read how pairs become an adapter, go down from the command to the files, one module at a time:

1. ``cli.train`` reads the options, the recipe (:mod:`.recipes`) and the pairs (:mod:`.pair_sources`).
2. :func:`.adapt.train_adapter` checks all of it, holds pairs out (:mod:`.sampling`), attaches a new adapter to the base
   (:mod:`.adapters`) and measures it.
3. :func:`.contrastive.fit_adapter` builds the objective: batches without false negatives (:mod:`.batches`,
   :mod:`.negatives`) and their loss (:mod:`.losses`).
4. :class:`.loop.Loop` minimises it: steps, validations, the best weights, a state to resume from.
5. :mod:`.run_record` saves the adapter with its settings, log, curves and model card (:mod:`.model_card`).

:func:`.reranker.train_reranker` (:mod:`.matching`), :func:`.distil.distil_query_encoder` (:mod:`.distillation`) and
:func:`.static_model.train_static_model` go the same way with objectives of their own. :func:`.pretraining.pretrain` is
what may come first: it needs source code alone (:mod:`.source_texts`, :mod:`.masking`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training.adapt import adapt_to_repository, train_adapter
    from llamaindex_code_retrieval.training.assistants import search_assistants
    from llamaindex_code_retrieval.training.averaging import average_adapters
    from llamaindex_code_retrieval.training.config import (
        AdapterConfig,
        DistilConfig,
        MatchConfig,
        PretrainConfig,
        StaticConfig,
        StudentConfig,
        TrainConfig,
    )
    from llamaindex_code_retrieval.training.distil import distil_query_encoder
    from llamaindex_code_retrieval.training.mining import mine
    from llamaindex_code_retrieval.training.pair_sources import load_pairs
    from llamaindex_code_retrieval.training.pairs import Pair
    from llamaindex_code_retrieval.training.pretraining import pretrain
    from llamaindex_code_retrieval.training.push import push_run
    from llamaindex_code_retrieval.training.ranking_model import RankingConfig
    from llamaindex_code_retrieval.training.recipes import (
        load_pretrain_recipe,
        load_query_recipe,
        load_recipe,
        load_reranker_recipe,
    )
    from llamaindex_code_retrieval.training.reranker import train_reranker
    from llamaindex_code_retrieval.training.run_record import TrainingRun
    from llamaindex_code_retrieval.training.static_model import train_static_model
    from llamaindex_code_retrieval.training.train_ranking import QuestionSet, train_ranking

_MODULES = {
    "AdapterConfig": "config",
    "DistilConfig": "config",
    "MatchConfig": "config",
    "Pair": "pairs",
    "PretrainConfig": "config",
    "StaticConfig": "config",
    "StudentConfig": "config",
    "QuestionSet": "train_ranking",
    "RankingConfig": "ranking_model",
    "TrainConfig": "config",
    "TrainingRun": "run_record",
    "adapt_to_repository": "adapt",
    "average_adapters": "averaging",
    "distil_query_encoder": "distil",
    "load_pairs": "pair_sources",
    "load_pretrain_recipe": "recipes",
    "load_query_recipe": "recipes",
    "load_recipe": "recipes",
    "load_reranker_recipe": "recipes",
    "mine": "mining",
    "pretrain": "pretraining",
    "push_run": "push",
    "search_assistants": "assistants",
    "train_adapter": "adapt",
    "train_ranking": "train_ranking",
    "train_reranker": "reranker",
    "train_static_model": "static_model",
}

__all__ = [
    "AdapterConfig",
    "DistilConfig",
    "MatchConfig",
    "Pair",
    "PretrainConfig",
    "QuestionSet",
    "RankingConfig",
    "StaticConfig",
    "StudentConfig",
    "TrainConfig",
    "TrainingRun",
    "adapt_to_repository",
    "average_adapters",
    "distil_query_encoder",
    "load_pairs",
    "load_pretrain_recipe",
    "load_query_recipe",
    "load_recipe",
    "load_reranker_recipe",
    "mine",
    "pretrain",
    "push_run",
    "search_assistants",
    "train_adapter",
    "train_ranking",
    "train_reranker",
    "train_static_model",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
