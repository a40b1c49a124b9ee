"""Settings of the trainings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from llamaindex_code_retrieval.models.catalog import Precision
from llamaindex_code_retrieval.models.query_encoder import KINDS, Kind
from llamaindex_code_retrieval.models.reranker_config import Head, Variant

Loss = Literal["bce", "listwise", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """What every training has to know, whatever it minimises."""

    epochs: float = 1.0
    batch_size: int = 64
    """Pairs a step, over all processes together."""
    learning_rate: float = 1e-3
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; it then falls to zero linearly."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    forward_tokens: int = 2048
    """Padded tokens of one forward pass; 2,048 is fastest on a CPU, a GPU wants many times that."""
    length_step: int = 0
    """Texts are padded to a multiple of this many tokens, so that few shapes occur; 0 is 16 in bf16, and none in fp32,
    where padding costs more than new shapes do."""
    precision: Precision = "auto"
    """Of the arithmetic; weights are fp32 either way."""
    validate_steps: int = 0
    """Steps between two validations; 0 is a fifth of the run."""
    patience: int = 0
    """Validations without a better MRR after which to stop; 0 is never."""
    save_steps: int = 50
    max_seconds: float | None = None
    """A time budget, validations included: after five steps the schedule is cut to what fits. Such a run cannot be
    repeated exactly."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 to have in-batch negatives, got {self.batch_size}")
        check_over_0(self, "epochs", "learning_rate", "forward_tokens", "save_steps")
        check_shares(self, "warmup")
        check_not_negative(self, "length_step", "validate_steps", "patience", "weight_decay")

    def lasting(self) -> dict[str, Any]:
        """Return the settings that have to be equal for a run to go on; the others say when to save or stop."""
        return {key: value for key, value in asdict(self).items() if key not in ("save_steps", "patience")}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(LoopConfig):
    """Settings of one contrastive run, saved in ``train_config.json`` beside the adapter."""

    temperature: float = 0.05
    learn_temperature: bool = False
    grad_cache: bool = False
    """Embed twice, so that memory holds one forward pass and not the whole batch (Gao et al. 2021)."""
    hard_negatives: int = 0
    """Mined codes a query, embedded with the batch."""
    refresh_steps: int = 200
    """Steps between two minings with the model as it then is."""
    neighbours: int = 1
    """Codes come into a batch in blocks of this many nearest neighbours, by their vectors when last embedded, so that
    in-batch negatives are hard at no cost; 1 leaves it to chance, as the first epoch always does."""
    memory: bool = False
    """All codes, by their vectors when last embedded, are negatives of each query: as many as there are codes at no
    cost (cross-batch memory: Wang et al. 2020, section 3.2)."""
    margin: float = 0.05
    """A code nearer than the positive's cosine less this is taken for an answer, not for a negative."""
    judged_negatives: int = 1
    """Codes a query, and queries a code, of those that were judged not to match."""
    hard_positives: float = 0.0
    """Share of codes shown without signature and return statements (Zhang et al. 2024, section 3.2)."""
    hardness: float = 0.0
    """Negatives weigh by exp(hardness * cosine), of mean one (Robinson et al. 2021; CodeSage: 1/temperature)."""
    rewritten_queries: float = 0.0
    """Share of queries with one word deleted, copied or switched (CoCLR: Huang et al. 2021, section 4.2)."""

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        check_over_0(self, "temperature", "refresh_steps", "neighbours")
        check_shares(self, "hard_positives", "rewritten_queries")
        check_not_negative(self, "hard_negatives", "judged_negatives", "hardness", "margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchConfig(LoopConfig):
    """Settings of one cross-encoder's training."""

    batch_size: int = 16
    """Queries a step, each with its answer and its negatives."""
    learning_rate: float = 5e-5
    variant: Variant = "adapters"
    """``adapters``: an adapter and a head on a frozen base, which the embedding goes on using; ``separate``: a base of
    its own; ``shared``: one base trained to embed and to match at once (CasCode, section 3)."""
    head: Head = "interaction"
    head_rate: float = 10.0
    """By how much the head, which begins with nothing, learns faster."""
    max_tokens: int = 160
    """Of a pair, while training and by default in use."""
    loss: Loss = "both"
    """``bce``: each pair by itself (CasCode, equation 2); ``listwise``: the answer against its negatives."""
    hard_negatives: int = 3
    """Codes a query, drawn anew each time from the ``depth`` nearest by the retriever."""
    depth: int = 30
    in_batch_negatives: int = 0
    """Codes a query, of other queries of the batch."""
    judged_negatives: int = 0
    """Queries a code and codes a query, of those that were judged not to match."""
    temperature: float = 0.05
    """Of InfoNCE, where the variant is ``shared``."""
    blend: float = 1.0
    """Share of what was learned in the weights that come out; the rest is the reranker that the run went on from, so
    that new pairs add to what the old ones taught (WiSE-FT: Wortsman et al. 2022, equation 1)."""

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        for name, known in (("variant", Variant), ("head", Head), ("loss", Loss)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}")
        check_over_0(self, "head_rate", "temperature", "depth", "blend")
        check_shares(self, "blend")
        check_not_negative(self, "hard_negatives", "in_batch_negatives", "judged_negatives")
        if self.max_tokens < 16:
            raise ValueError(f"max_tokens must be at least 16 to hold a query and some code, got {self.max_tokens}")
        if not self.hard_negatives and not self.in_batch_negatives:
            raise ValueError("hard_negatives and in_batch_negatives are both 0, so there is nothing to tell apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """What the student is. Fields that are not of its ``kind`` are not looked at."""

    kind: Kind = "static"
    layers: tuple[int, ...] = ()
    """``layers``: those of the teacher's layers, from 0, that are kept."""
    table_rank: int = 128
    """``static``: numbers a token."""
    buckets: int = 16384
    """``static``: rows for pairs of neighbouring tokens, by their hash; 0 is none."""
    hidden: int = 1024
    """``static``: width of the layer between the sum and the vector; 0 is none, and the map a linear one."""
    width: int = 192
    """``transformer``: of a hidden state, a multiple of 32."""
    depth: int = 2
    """``transformer``: layers."""
    int8: bool = False
    """``layers`` and ``transformer``: in use on a CPU, linear layers are quantized."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "layers" and not self.layers:
            raise ValueError("a student of kind 'layers' needs layers, the teacher's that it keeps, such as [0, 5]")
        check_over_0(self, "table_rank", "depth")
        check_not_negative(self, "buckets", "hidden")
        if self.width < 32 or self.width % 32:
            raise ValueError(f"width must be a multiple of 32, got {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig(LoopConfig):
    """Settings of one query encoder's training to the vectors of its teacher."""

    batch_size: int = 128
    """Queries a step."""
    learning_rate: float = 1e-3
    single: float = 1.0
    """Weight of 1 - cos(student, teacher) (SPENCER, equation 6)."""
    dual: float = 1.0
    """Weight of |cos(code, teacher) - cos(code, student)| (SPENCER, equation 7)."""
    contrastive: float = 0.0
    """Weight of InfoNCE with the code that answers, of the queries that have one: the labels, which SPENCER leaves out.
    Alone, with the other two at 0, it is training without a teacher."""
    temperature: float = 0.05
    """Of InfoNCE."""

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        check_over_0(self, "temperature")
        check_not_negative(self, "single", "dual", "contrastive")
        if not self.single + self.dual + self.contrastive:
            raise ValueError("single, dual and contrastive are all 0, so there is nothing to learn from")


def check_over_0(settings: object, *names: str) -> None:
    """Refuse a value that is not over 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be over 0, got {getattr(settings, name)}")


def check_shares(settings: object, *names: str) -> None:
    """Refuse a value outside 0 to 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is a share, from 0 to 1, got {getattr(settings, name)}")


def check_not_negative(settings: object, *names: str) -> None:
    """Refuse a value under 0."""
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(settings, name)}")
