"""Settings of the trainings: what is trained, and how."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from llamaindex_code_retrieval._settings import Settings
from llamaindex_code_retrieval.models.catalog import EMBEDDED, Precision
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
    """Settings with strict types: ``"8"`` is no number and ``1`` is no bool. A list becomes a tuple."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _freeze_lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class AdapterConfig(TrainingSettings):
    """What is trained. The presets train at most 0.4 % of CodeT5+ 110M, except ``full``, which trains all of it.

    A setting that has no effect on the method is refused.

    >>> AdapterConfig(method="ia3", rank=8)
    Traceback (most recent call last):
    ValueError: rank has no effect on the method 'ia3', which has no settings
    """

    method: Method = "lora"
    """``lora``, ``adalora``, ``ia3``, ``prompt`` (prompt tuning), or ``full``, which trains all weights of the base."""
    rank: AtLeast1 = 2
    """Rank of LoRA; mean rank of AdaLoRA at the end of the training."""
    initial_rank: AtLeast1 = 4
    """Rank of AdaLoRA before it prunes."""
    alpha: Positive | None = None
    """Scale: the update is multiplied by ``alpha / rank``; ``None`` takes ``2 * rank``."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropout on the adapter's input; 0 is none."""
    targets: Annotated[str, Field(min_length=1)] = "linear"
    """Modules that LoRA and AdaLoRA change: ``attention`` (query and value projections), ``linear`` (all linear layers
    of the blocks), or a regular expression over full module names."""
    first_layer: AtLeast0 = 0
    """Layers before this one, counted from 0, get no LoRA and no AdaLoRA. A step is faster, because no gradient passes
    through them, and ``activation_gigabytes`` computes them once; 0 is all layers."""
    virtual_tokens: AtLeast1 = 8
    """Virtual tokens that prompt tuning prepends to each text."""
    orthogonality: Weight = 0.5
    """Weight of AdaLoRA's orthogonality penalty (Zhang et al. 2023, equation 4)."""

    SETTINGS_OF: ClassVar[dict[Method, tuple[str, ...]]] = {
        "lora": ("rank", "alpha", "dropout", "targets", "first_layer"),
        "adalora": ("rank", "initial_rank", "alpha", "dropout", "targets", "first_layer", "orthogonality"),
        "ia3": (),
        "prompt": ("virtual_tokens",),
        "full": (),
    }
    """The settings that have an effect on each method."""

    @model_validator(mode="after")
    def _check_method(self) -> AdapterConfig:
        effective = self.SETTINGS_OF[self.method]
        for name, field in type(self).model_fields.items():
            if name != "method" and name not in effective and getattr(self, name) != field.default:
                known = f"has {', '.join(effective)}" if effective else "has no settings"
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


class LoopConfig(TrainingSettings):
    """Settings that every training has."""

    epochs: Positive = 1.0
    """Passes over the training data; may be a fraction."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Pairs per step, over all processes together; at least 2, to have in-batch negatives."""
    learning_rate: Positive = 1e-3
    """Largest learning rate, reached at the end of ``warmup``."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises; it then falls to zero linearly."""
    weight_decay: Weight = 0.01
    """Weight decay of AdamW; 0 is none."""
    max_gradient_norm: Positive = 1.0
    """Gradients with a larger norm are scaled down to it."""
    forward_tokens: AtLeast1 = 2048
    """Tokens of one forward pass, padding included; 2,048 is fastest on a CPU, and a GPU needs many times that."""
    length_step: AtLeast0 = 0
    """Texts are padded to a multiple of this many tokens, so that few shapes occur. 0 is 16 in bf16 and 1 in fp32,
    where padding costs more than new shapes do."""
    precision: Precision = "auto"
    """Precision of the arithmetic: ``fp32``, ``bf16``, or ``auto``, which is bf16 where the device supports it natively
    and fp32 elsewhere. Weights are always fp32."""
    validate_steps: AtLeast0 = 0
    """Steps between two validations; 0 is a fifth of the run."""
    patience: AtLeast0 = 0
    """Validations without a better MRR after which the run stops; 0 is never."""
    save_steps: AtLeast1 = 50
    """Steps between two saves of the state from which an interrupted run is resumed."""
    save_seconds: Positive | None = None
    """Seconds after which the state is saved as well; ``None`` counts steps alone."""
    max_seconds: Positive | None = None
    """Time budget in seconds, validations included; ``None`` is no limit. After five steps the schedule is cut to what
    fits, so such a run cannot be repeated exactly."""
    seed: AtLeast0 = 0
    """Seed of everything random: new weights, held-out pairs, batches, dropout."""

    def total_steps(self, examples: int) -> int:
        """Return the number of steps of a run over so many examples.

        >>> LoopConfig(epochs=1.5, batch_size=8).total_steps(64)
        12
        """
        return max(1, round(self.epochs * examples / self.batch_size))

    def resume_settings(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to be resumed; the others say when to save or stop."""
        return self.model_dump(exclude={"save_steps", "save_seconds", "patience"})


class KindWeights(TrainingSettings):
    """How often the pairs of a kind are used in an epoch: 0.25 is a random quarter of them, 2 all of them twice.

    Without a weight each pair is used once, and there may be none. A weight over 0 needs pairs of its kind.

    >>> KindWeights(commits=2)
    Traceback (most recent call last):
    ValueError: there is no setting 'commits'; there are commit, doc, other, path, section, symbol, test, written
    """

    doc: Weight | None = None
    """Doc comments and their functions."""
    commit: Weight | None = None
    """Messages of commits and the functions that they changed."""
    section: Weight | None = None
    """Sections of documents and the definitions that they describe."""
    symbol: Weight | None = None
    """Questions that name a definition."""
    path: Weight | None = None
    """Questions that name a file."""
    test: Weight | None = None
    """Names of tests and the functions that they test."""
    written: Weight | None = None
    """Questions that a language model wrote."""
    other: Weight | None = None
    """Pairs of any other origin, such as those of data sets."""

    def stated(self) -> dict[str, float]:
        """Return the kinds that have a weight."""
        return self.model_dump(exclude_none=True)


class TrainConfig(LoopConfig):
    """Settings of one contrastive training, saved in ``train_config.json`` beside the adapter."""

    temperature: Positive = 0.05
    """Temperature of InfoNCE: cosines are divided by it."""
    dimensions: tuple[AtLeast1, ...] = ()
    """Lengths to which vectors may be cut in use, such as [64, 128, 256]: the loss is the mean of those of vectors of
    these lengths and of whole ones (Matryoshka: Kusupati et al. 2022)."""
    teacher_weight: Share = 0.0
    """Weight of the teachers' loss, the divergence of a batch's similarities from theirs; InfoNCE has the rest. For a
    recipe with ``teachers``."""
    teacher_temperature: Positive = 0.05
    """The teachers' cosines are divided by it."""
    learn_temperature: bool = False
    """Train the temperature as well, from ``temperature`` on."""
    grad_cache: bool = False
    """Embed twice, so that memory holds one forward pass and not the whole batch (Gao et al. 2021)."""
    activation_gigabytes: Weight = 0.0
    """Largest size on disk, in GB, of the cached activations of the layers before ``first_layer``, about 0.2 MB a pair
    of a base of width 768; what does not fit is computed each time. 0 caches none. A resumed run then agrees with an
    unbroken one up to rounding."""
    hard_negatives: AtLeast0 = 0
    """Mined hard negatives per query, embedded with the batch; 0 is none."""
    refresh_steps: AtLeast1 = 200
    """Steps after which hard negatives are mined anew with the current model."""
    neighbours: AtLeast1 = 1
    """Codes enter a batch in blocks of this many nearest neighbours, by their vectors when last embedded, so that
    in-batch negatives are hard at no cost. 1 draws them at random, as the first epoch always does."""
    from_repository: AtLeast1 = 1
    """Codes enter a batch in blocks of this many from one repository, whose codes are as alike as those of an index. 1
    draws them at random."""
    memory: bool = False
    """Use all codes as negatives of each query, by their vectors when last embedded: as many negatives as codes at no
    cost (cross-batch memory: Wang et al. 2020, section 3.2)."""
    margin: Weight = 0.05
    """A mined code is a hard negative only if its cosine is lower than the answer's by at least this margin: a nearer
    code may be another answer."""
    judged_negatives: AtLeast0 = 1
    """Negatives per query, and rejected queries per code, that come with the pairs; 0 is none."""
    hard_positives: Share = 0.0
    """Share of codes that are embedded without signature and return statements (Zhang et al. 2024, section 3.2)."""
    hardness: Weight = 0.0
    """Negatives are weighted by exp(hardness * cosine), with mean one (Robinson et al. 2021; CodeSage takes
    1 / temperature); 0 weights all alike."""
    rewritten_queries: Share = 0.0
    """Share of queries with one word deleted, copied or switched (CoCLR: Huang et al. 2021, section 4.2)."""

    @model_validator(mode="after")
    def _check_blocks(self) -> TrainConfig:
        if self.neighbours > 1 and self.from_repository > 1:
            raise ValueError(
                "neighbours and from_repository both say which codes share a batch; leave one of them at 1"
            )
        return self


class PretrainConfig(LoopConfig):
    """Settings of one pretraining on source code.

    >>> PretrainConfig(name_batches=1, masked_tokens=0.3)
    Traceback (most recent call last):
    ValueError: masked_tokens has no effect with name_batches=1, which masks names alone; leave it out
    """

    batch_size: Annotated[int, Field(ge=2)] = 64
    """Texts per step."""
    learning_rate: Positive = 7e-4
    """Largest learning rate, reached at the end of ``warmup``."""
    name_batches: Share = 0.5
    """Share of the batches in which the names that a text declares are masked (DOBF: Rozière et al. 2021); the others
    mask random tokens. CodeSage takes a half."""
    masked_tokens: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that is masked where tokens are."""
    masked_names: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the names that a text declares that is masked where names are, each wherever it stands."""

    @model_validator(mode="after")
    def _check_shares(self) -> PretrainConfig:
        for share, name, what in ((1.0, "masked_tokens", "names"), (0.0, "masked_names", "tokens")):
            if self.name_batches == share and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has no effect with name_batches={share:g}, which masks {what} alone; leave it out"
                )
        return self


class StaticConfig(LoopConfig):
    """Settings of a static model: its table, and the contrastive training of it."""

    base: Annotated[str, Field(min_length=1)] = EMBEDDED
    """Model whose vectors of single tokens the table starts from: a known name, hub name or folder; with its default
    adapter."""
    dim: AtLeast1 = 256
    """Length of a vector, at most that of the base."""
    max_tokens: Annotated[int, Field(ge=8)] = 128
    """Tokens of a text, in training and by default in use. They are those of its words: about half of all tokens of a
    function."""
    held_out: Share = 0.05
    """Share of the pairs, by repository, that is held out for validation; without effect where pairs for validation are
    given."""
    epochs: Positive = 4.0
    """Passes over the training data; may be a fraction."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Pairs per step."""
    learning_rate: Positive = 3e-3
    weight_decay: Weight = 0.0
    """Weight decay of AdamW; 0 is none."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE: cosines are divided by it."""


class MatchConfig(LoopConfig):
    """Settings of one cross-encoder's training."""

    batch_size: Annotated[int, Field(ge=2)] = 16
    """Queries per step, each with its answer and its negatives."""
    learning_rate: Positive = 5e-5
    """Largest learning rate, reached at the end of ``warmup``."""
    variant: Variant = "adapters"
    """``adapters``: an adapter and a head on the frozen base, which the embedding model shares; ``separate``: a base of
    its own; ``shared``: one base trained to embed and to match at once (CasCode, section 3)."""
    head: Head = "interaction"
    """What scores a pair: ``interaction`` compares the mean hidden states of query and code; ``mlp`` classifies the
    first token (CasCode)."""
    head_rate: Positive = 10.0
    """The head's learning rate is this times ``learning_rate``, because the head is randomly initialised."""
    max_tokens: Annotated[int, Field(ge=16)] = 160
    """Tokens of a pair, in training and by default in use; at least 16, to hold a query and some code."""
    loss: Loss = "both"
    """``bce``: each pair by itself (CasCode, equation 2); ``listwise``: the answer against its negatives; ``both``:
    their sum."""
    hard_negatives: AtLeast0 = 3
    """Negatives per query, drawn for each batch from the ``depth`` nearest codes by the retriever; 0 is none."""
    depth: AtLeast1 = 30
    """Nearest codes from which ``hard_negatives`` are drawn."""
    in_batch_negatives: AtLeast0 = 0
    """Negatives per query from the other pairs of the batch; 0 is none."""
    judged_negatives: AtLeast0 = 0
    """Negatives per query, and rejected queries per code, that come with the pairs; 0 is none."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE, for the variant ``shared``."""
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Weight of the trained weights in their mean with those of the reranker that the run started from, so that less is
    forgotten (WiSE-FT: Wortsman et al. 2022, equation 1); 1 takes the trained weights alone."""

    @model_validator(mode="after")
    def _check_negatives_and_variant(self) -> MatchConfig:
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
    """``static``: a table of token vectors; ``layers``: some of the teacher's layers; ``transformer``: a small one."""
    layers: tuple[AtLeast0, ...] = ()
    """``layers``: the teacher's layers, counted from 0, that are kept."""
    table_rank: AtLeast1 = 128
    """``static``: length of a token's vector in the table."""
    buckets: AtLeast0 = 16384
    """``static``: rows for pairs of neighbouring tokens, by their hash; 0 is none."""
    hidden: AtLeast0 = 1024
    """``static``: width of the hidden layer between the sum of token vectors and the query's vector; 0 is none, which
    makes the map linear."""
    width: Annotated[int, Field(ge=32, multiple_of=32)] = 192
    """``transformer``: width of a hidden state, a multiple of 32."""
    depth: AtLeast1 = 2
    """``transformer``: number of layers."""
    int8: bool = False
    """``layers`` and ``transformer``: quantize the linear layers to int8 in use, on a CPU."""

    SETTINGS_OF: ClassVar[dict[Kind, tuple[str, ...]]] = {
        "static": ("table_rank", "buckets", "hidden"),
        "layers": ("layers", "int8"),
        "transformer": ("width", "depth", "int8"),
    }
    """The settings that have an effect on each kind."""

    @model_validator(mode="after")
    def _check_kind(self) -> StudentConfig:
        effective = self.SETTINGS_OF[self.kind]
        for name, field in type(self).model_fields.items():
            if name != "kind" and name not in effective and getattr(self, name) != field.default:
                raise ValueError(
                    f"{name} has no effect on a student of kind {self.kind!r}, which has {', '.join(effective)}"
                )
        if self.kind == "layers" and not self.layers:
            raise ValueError("a student of kind 'layers' needs layers, the teacher's that it keeps, such as [0, 5]")
        return self


class DistilConfig(LoopConfig):
    """Settings of one query encoder's training towards the vectors of its teacher."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    """Queries per step."""
    learning_rate: Positive = 1e-3
    single: Weight = 1.0
    """Weight of 1 - cos(student, teacher) (SPENCER, equation 6); 0 leaves it out."""
    dual: Weight = 1.0
    """Weight of |cos(code, teacher) - cos(code, student)| (SPENCER, equation 7); 0 leaves it out."""
    contrastive: Weight = 0.0
    """Weight of InfoNCE between the queries that have an answer and these answers, which SPENCER does not use; 0 leaves
    it out. With the other two weights at 0 the student learns without its teacher."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE, where ``contrastive`` is over 0."""

    @model_validator(mode="after")
    def _check_weights(self) -> DistilConfig:
        if not self.single + self.dual + self.contrastive:
            raise ValueError("single, dual and contrastive are all 0, so there is nothing to learn from")
        if not self.contrastive and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError("temperature has no effect without contrastive; leave it out, or set contrastive")
        return self
