"""Settings of the trainings: what is trained, and how."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from llamaindex_code_retrieval._settings import Settings
from llamaindex_code_retrieval.models.catalog import Precision
from llamaindex_code_retrieval.models.query_encoder_config import Kind
from llamaindex_code_retrieval.models.reranker_config import Head, Variant

Method = Literal["lora", "adalora", "ia3", "prompt", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
Loss = Literal["bce", "listwise", "both"]

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]


class TrainingSettings(Settings):
    """Settings of exact types: no number is read from a text, no switch from a number. A list becomes a tuple."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _freeze_lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class AdapterConfig(TrainingSettings):
    """What is trained. The presets train at most 0.4 % of CodeT5+ 110M, except ``full``, which trains all of it.

    ``targets`` is ``"attention"`` (query and value projections), ``"linear"`` (all linear layers of the blocks) or a
    regular expression over full module names. A setting that has no effect on the method is refused.

    >>> AdapterConfig(method="ia3", rank=8)
    Traceback (most recent call last):
    ValueError: rank has no effect on the method 'ia3', which has no settings
    """

    method: Method = "lora"
    rank: AtLeast1 = 2
    """Rank of LoRA; mean rank of AdaLoRA at the end."""
    initial_rank: AtLeast1 = 4
    """Rank of AdaLoRA before it prunes."""
    alpha: Positive | None = None
    """Scale: the update is multiplied by ``alpha / rank``; ``None`` takes ``2 * rank``."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[str, Field(min_length=1)] = "linear"
    virtual_tokens: AtLeast1 = 8
    """Length of the prompt that prompt tuning learns."""
    orthogonality: Weight = 0.5
    """Weight of AdaLoRA's orthogonality penalty (Zhang et al. 2023, equation 4)."""

    SETTINGS_OF: ClassVar[dict[Method, tuple[str, ...]]] = {
        "lora": ("rank", "alpha", "dropout", "targets"),
        "adalora": ("rank", "initial_rank", "alpha", "dropout", "targets", "orthogonality"),
        "ia3": (),
        "prompt": ("virtual_tokens",),
        "full": (),
    }
    """The settings that have an effect on each method."""

    @model_validator(mode="after")
    def _fit_method(self) -> AdapterConfig:
        own = self.SETTINGS_OF[self.method]
        for name, field in type(self).model_fields.items():
            if name != "method" and name not in own and getattr(self, name) != field.default:
                known = f"has {', '.join(own)}" if own else "has no settings"
                raise ValueError(f"{name} has no effect on the method {self.method!r}, which {known}")
        if self.method == "adalora" and self.initial_rank <= self.rank:
            raise ValueError(
                "AdaLoRA prunes from initial_rank down to a mean of rank, so initial_rank must be the larger; "
                f"got {self.initial_rank} and {self.rank}"
            )
        return self

    @classmethod
    def preset(cls, method: Method) -> AdapterConfig:
        """Return the settings that the benchmarked adapters of a method have."""
        if method == "adalora":
            return cls(method="adalora", rank=4, initial_rank=8, targets="attention")
        return cls(method=method)

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> AdapterConfig:
        """Return the settings under ``adapter`` in a ``train_config.json``, without those that have no effect."""
        own = ("method", *cls.SETTINGS_OF[record["method"]])
        return cls(**{name: value for name, value in record.items() if name in own})


class LoopConfig(TrainingSettings):
    """Settings that every training has."""

    epochs: Positive = 1.0
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Pairs per step, over all processes together; at least 2, to have in-batch negatives."""
    learning_rate: Positive = 1e-3
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises; it then falls to zero linearly."""
    weight_decay: Weight = 0.01
    max_gradient_norm: Positive = 1.0
    forward_tokens: AtLeast1 = 2048
    """Padded tokens of one forward pass; 2,048 is fastest on a CPU, a GPU wants many times that."""
    length_step: AtLeast0 = 0
    """Texts are padded to a multiple of this many tokens, so that few shapes occur. 0 stands for 16 in bf16 and for 1
    in fp32, where padding costs more than new shapes do."""
    precision: Precision = "auto"
    """Precision of the arithmetic; weights are fp32 in any case."""
    validate_steps: AtLeast0 = 0
    """Steps between two validations; 0 is a fifth of the run."""
    patience: AtLeast0 = 0
    """Validations without a better MRR after which the run stops; 0 is never."""
    save_steps: AtLeast1 = 50
    max_seconds: Positive | None = None
    """Time budget, validations included: after five steps the schedule is cut to what fits. Such a run cannot be
    repeated exactly."""
    seed: AtLeast0 = 0

    def total_steps(self, examples: int) -> int:
        """Return the number of steps of a run over so many examples.

        >>> LoopConfig(epochs=1.5, batch_size=8).total_steps(64)
        12
        """
        return max(1, round(self.epochs * examples / self.batch_size))

    def lasting(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to be resumed; the others say when to save or stop."""
        return self.model_dump(exclude={"save_steps", "patience"})


class TrainConfig(LoopConfig):
    """Settings of one contrastive training, saved in ``train_config.json`` beside the adapter."""

    temperature: Positive = 0.05
    learn_temperature: bool = False
    grad_cache: bool = False
    """Embed twice, so that memory holds one forward pass and not the whole batch (Gao et al. 2021)."""
    hard_negatives: AtLeast0 = 0
    """Mined codes per query, embedded with the batch."""
    refresh_steps: AtLeast1 = 200
    """Steps between two minings with the current model."""
    neighbours: AtLeast1 = 1
    """Codes enter a batch in blocks of this many nearest neighbours, by their vectors when last embedded, so that
    in-batch negatives are hard at no cost. 1 draws them at random, as the first epoch always does."""
    memory: bool = False
    """Use all codes as negatives of each query, by their vectors when last embedded: as many negatives as codes at no
    cost (cross-batch memory: Wang et al. 2020, section 3.2)."""
    margin: Weight = 0.05
    """A code whose cosine exceeds the positive's less this margin is taken for an answer and not used as a negative."""
    judged_negatives: AtLeast0 = 1
    """Codes per query, and queries per code, of those that were judged not to match."""
    hard_positives: Share = 0.0
    """Share of codes shown without signature and return statements (Zhang et al. 2024, section 3.2)."""
    hardness: Weight = 0.0
    """Negatives are weighted by exp(hardness * cosine), with mean one (Robinson et al. 2021; CodeSage:
    1/temperature)."""
    rewritten_queries: Share = 0.0
    """Share of queries with one word deleted, copied or switched (CoCLR: Huang et al. 2021, section 4.2)."""


class MatchConfig(LoopConfig):
    """Settings of one cross-encoder's training."""

    batch_size: Annotated[int, Field(ge=2)] = 16
    """Queries per step, each with its answer and its negatives."""
    learning_rate: Positive = 5e-5
    variant: Variant = "adapters"
    """``adapters``: an adapter and a head on a frozen base, which the embedding goes on using; ``separate``: a base of
    its own; ``shared``: one base trained to embed and to match at once (CasCode, section 3)."""
    head: Head = "interaction"
    head_rate: Positive = 10.0
    """Factor of the head's learning rate; the head is randomly initialised and learns faster."""
    max_tokens: Annotated[int, Field(ge=16)] = 160
    """Tokens of a pair, while training and by default in use; at least 16, to hold a query and some code."""
    loss: Loss = "both"
    """``bce``: each pair by itself (CasCode, equation 2); ``listwise``: the answer against its negatives."""
    hard_negatives: AtLeast0 = 3
    """Codes per query, drawn anew each time from the ``depth`` nearest by the retriever."""
    depth: AtLeast1 = 30
    in_batch_negatives: AtLeast0 = 0
    """Codes per query, of other queries of the batch."""
    judged_negatives: AtLeast0 = 0
    """Queries per code and codes per query, of those that were judged not to match."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE, for the variant ``shared``."""
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the trained weights in the result; the rest are those of the reranker that the run started from, so that
    new pairs add to what the old ones taught (WiSE-FT: Wortsman et al. 2022, equation 1)."""

    @model_validator(mode="after")
    def _fit_negatives_and_variant(self) -> MatchConfig:
        if not self.hard_negatives and not self.in_batch_negatives:
            raise ValueError("hard_negatives and in_batch_negatives are both 0, so no query has a negative; set one")
        if not self.hard_negatives and self.depth != type(self).model_fields["depth"].default:
            raise ValueError("depth has no effect without hard_negatives, which are drawn from it; leave it out")
        if self.variant != "shared" and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError(
                f"temperature has no effect on the variant {self.variant!r}, only on 'shared'; leave it out"
            )
        return self


class StudentConfig(TrainingSettings):
    """What the student is. A setting that has no effect on its ``kind`` is refused.

    >>> StudentConfig(kind="static", int8=True)
    Traceback (most recent call last):
    ValueError: int8 has no effect on a student of kind 'static', which has table_rank, buckets, hidden
    """

    kind: Kind = "static"
    layers: tuple[AtLeast0, ...] = ()
    """``layers``: the teacher's layers, counted from 0, that are kept."""
    table_rank: AtLeast1 = 128
    """``static``: numbers per token."""
    buckets: AtLeast0 = 16384
    """``static``: rows for pairs of neighbouring tokens, by their hash; 0 is none."""
    hidden: AtLeast0 = 1024
    """``static``: width of the layer between the sum and the vector; 0 is none, and the map a linear one."""
    width: Annotated[int, Field(ge=32, multiple_of=32)] = 192
    """``transformer``: width of a hidden state, a multiple of 32."""
    depth: AtLeast1 = 2
    """``transformer``: number of layers."""
    int8: bool = False
    """``layers`` and ``transformer``: quantize linear layers in use on a CPU."""

    SETTINGS_OF: ClassVar[dict[Kind, tuple[str, ...]]] = {
        "static": ("table_rank", "buckets", "hidden"),
        "layers": ("layers", "int8"),
        "transformer": ("width", "depth", "int8"),
    }
    """The settings that have an effect on each kind."""

    @model_validator(mode="after")
    def _fit_kind(self) -> StudentConfig:
        own = self.SETTINGS_OF[self.kind]
        for name, field in type(self).model_fields.items():
            if name != "kind" and name not in own and getattr(self, name) != field.default:
                raise ValueError(f"{name} has no effect on a student of kind {self.kind!r}, which has {', '.join(own)}")
        if self.kind == "layers" and not self.layers:
            raise ValueError("a student of kind 'layers' needs layers, the teacher's that it keeps, such as [0, 5]")
        return self


class DistilConfig(LoopConfig):
    """Settings of one query encoder's training to the vectors of its teacher."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    """Queries per step."""
    learning_rate: Positive = 1e-3
    single: Weight = 1.0
    """Weight of 1 - cos(student, teacher) (SPENCER, equation 6)."""
    dual: Weight = 1.0
    """Weight of |cos(code, teacher) - cos(code, student)| (SPENCER, equation 7)."""
    contrastive: Weight = 0.0
    """Weight of InfoNCE with the code that answers, of the queries that have one: the labels, which SPENCER leaves out.
    Alone, with the other two at 0, it is training without a teacher."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE."""

    @model_validator(mode="after")
    def _need_loss(self) -> DistilConfig:
        if not self.single + self.dual + self.contrastive:
            raise ValueError("single, dual and contrastive are all 0, so there is nothing to learn from")
        if not self.contrastive and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError("temperature has no effect without contrastive; leave it out, or set contrastive")
        return self
