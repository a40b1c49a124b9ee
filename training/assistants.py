"""Search for the smallest query encoder that is good enough, with teaching assistants on the way (SPENCER)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamaindex_code_retrieval._io import Progress, no_progress, write_atomically
from llamaindex_code_retrieval.models.files import QUERY_CONFIG
from llamaindex_code_retrieval.models.modify import layer_count
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.training.assistant_search import (
    AssistantSearch,
    Layers,
    Lineage,
    check_search,
    remove_layers,
    search_students,
)
from llamaindex_code_retrieval.training.curves import search_svg
from llamaindex_code_retrieval.training.distil import check_environment, distil_student, load_teacher
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.recipes import QueryRecipe, load_query_recipe
from llamaindex_code_retrieval.training.run_record import TrainingRun, free_folder
from llamaindex_code_retrieval.training.students import check_student
from llamaindex_code_retrieval.training.teaching import (
    DistillationData,
    embed_in_chunks,
    embed_selection,
    select_queries,
)

SEARCH = "search.json"
"""Who taught whom, and with what MRR."""
STUDENTS = "students"
"""The folder of all students that were tried."""


def search_assistants(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    queries: Sequence[str] = (),
    recipe: QueryRecipe | None = None,
    step: int = 1,
    threshold: float = 0.01,
    validation_pairs: Sequence[Pair] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    sources: Sequence[str | Path] = (),
    on_progress: Progress = no_progress,
) -> tuple[AssistantSearch, TrainingRun[QueryEncoder] | None]:
    """Distil ever smaller students until one loses more than ``threshold`` MRR; save the smallest that does not.

    Each student has a folder of its own in ``folder/students``. ``search.json`` and ``search.svg`` show who taught whom
    and the MRR of each. The chosen student is copied to ``folder``; without one the second value is ``None``. An
    interrupted search is continued with ``resume``. Other arguments are those of :func:`distil_query_encoder`.

    Args:
        recipe: has a student of kind ``layers``, whose layers the search replaces; by default the recipe ``layers``.
        step: layers that each round removes.
        threshold: MRR that the chosen student may lose, on the queries that choose.

    Raises:
        ImportError, ValueError, FloatingPointError: as :func:`distil_query_encoder`; a step or threshold out of range.
    """
    check_environment()
    recipe = recipe or load_query_recipe("layers")
    folder = free_folder(folder, resume=resume, resumable=(STUDENTS,))
    if recipe.student.kind != "layers":
        raise ValueError(
            f"assistants are students with fewer layers, and one of kind {recipe.student.kind!r} keeps none; use the "
            "kind 'layers'"
        )
    selection = select_queries(pairs, queries, recipe, validation_pairs)
    teacher = load_teacher(recipe, device=device, cache_folder=cache_folder)
    layers = layer_count(teacher.torch_encoder.base)
    check_search(layers, step=step, threshold=threshold)
    first = remove_layers(range(layers), step)
    check_student(teacher.torch_encoder, recipe.with_settings({"layers": first}).student)
    data = embed_selection(selection, teacher, on_progress)
    trainer = AssistantTrainer(data, folder / STUDENTS, recipe, tuple(sources), resume, on_progress)
    search = search_students(layers, data.validation.teacher_mrr(), trainer.distil, step=step, threshold=threshold)
    _save_search(search, folder, step)
    run = None
    if search.chosen is not None:
        _copy_student(trainer.folder_of(search.chosen.lineage), folder)
        run = TrainingRun.load(folder, QueryEncoder.load(folder, teacher=teacher.torch_encoder))
    write_atomically(folder / "search.svg", search_svg(search))
    return search, run


@dataclass(frozen=True, slots=True)
class AssistantTrainer:
    """Trains the students of a search, each taught by the teacher or by an earlier student."""

    data: DistillationData
    folder: Path
    recipe: QueryRecipe
    sources: tuple[str | Path, ...]
    resume: bool
    on_progress: Progress

    def distil(self, layers: Layers, teachers: Lineage) -> float:
        """Train and save a student that keeps ``layers``, taught by the last of ``teachers``; return its MRR."""
        teaching = self.data.teaching
        if len(teachers) > 1:
            assistant = QueryEncoder.load(self.folder_of(teachers), teacher=self.data.teacher.torch_encoder)
            targets = embed_in_chunks(assistant.encode_queries, teaching.queries, "teach", self.on_progress)
            teaching = replace(teaching, targets=targets)
        run = distil_student(
            self.data,
            teaching,
            self.folder_of((*teachers, layers)),
            self.recipe.with_settings({"layers": layers}),
            taught_by=teachers,
            sources=self.sources,
            resume=self.resume,
            on_progress=self.on_progress,
        )
        mrr: float = run.record["validation_best"]["mrr"]
        return mrr

    def folder_of(self, lineage: Lineage) -> Path:
        """Return the folder of a student: the number of layers of each model of its lineage, then its own layers."""
        sizes = "-".join(str(len(layers)) for layers in lineage)
        return self.folder / f"{sizes}_{'.'.join(map(str, lineage[-1]))}"


def _save_search(search: AssistantSearch, folder: Path, step: int) -> None:
    record = {
        "teacher_mrr": search.teacher_mrr,
        "step": step,
        "threshold": search.threshold,
        "tried": [{"layers": each.layers, "taught_by": each.teachers, "mrr": each.mrr} for each in search.tried],
        "chosen": None if search.chosen is None else search.chosen.lineage,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SEARCH, json.dumps(record, indent=1) + "\n")


def _copy_student(student: Path, folder: Path) -> None:
    """Copy the files of a student; ``query_encoder.json`` first, since without it weights are something else."""
    for file in sorted(student.iterdir(), key=lambda file: (file.name != QUERY_CONFIG, file.name)):
        if file.is_file():
            write_atomically(folder / file.name, file.read_bytes())
