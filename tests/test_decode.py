from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.index.decode import Decoded, decode, is_binary

FRENCH = "# Les éléments sélectionnés sont triés par numéro de série, déjà vérifiés à l'étape précédente\n"
GERMAN = "// Überprüft die Größe der Datei und zählt die übrigen Einträge für später\nint pruefe(int n) { return n; }\n"
SPANISH = "/* Añade un número al carrito de la compra según el año y la sección */\nint anadir(int n);\n"
POLISH = "# Oblicza sumę wszystkich zamówień złożonych przez użytkownika; jeśli lista jest pusta, zwraca zero\n"
RUSSIAN = "# Вычисляет сумму всех заказов пользователя; если список пуст, возвращает ноль\ntotal = sum(orders)\n"
GREEK = "# Υπολογίζει το σύνολο όλων των παραγγελιών του χρήστη\n"
CHINESE = "// 计算所有订单的总金额\nint total(int n) { return n; } // 如果列表为空则返回零\n"
JAPANESE = "// すべての注文の合計金額を計算します\nint total(int n) { return n; } // リストが空の場合はゼロを返す\n"
KOREAN = "// 모든 주문의 합계 금액을 계산합니다\nint total(int n) { return n; } // 목록이 비어 있으면 0을 반환\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
        (SPANISH, "cp1252"),
        ("name = 'café'\n", "cp1252"),
        ("# Copyright © 2009 Jörg Müller\n", "cp1252"),
        ("# It\u2019s a \u201ctest\u201d \u2013 of quotes\n", "cp1252"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        (GREEK, "cp1253"),
        (CHINESE, "gb18030"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "cp949"),
        ("// 計算所有訂單的總金額\nint total; // 如果列表為空則返回零\n", "big5"),
    ],
)
def test_encodings_that_the_bytes_tell(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == Decoded(text, encoding, "guessed")
    code = "x = 1\n" * 20_000
    assert decode((code + text).encode(encoding)) == Decoded(code + text, encoding, "guessed")


@pytest.mark.parametrize("data", [b"int x; // \xbc\xc6\xca\xfd\n", b"x = '\x81'\n"])
def test_what_the_bytes_do_not_tell_is_replaced(data: bytes) -> None:
    decoded = decode(data)
    assert decoded is not None
    assert (decoded.encoding, decoded.how) == ("utf-8", "replaced")
    assert decoded.text == data.decode("utf-8", errors="replace")


def test_utf8_with_a_few_bad_bytes_stays_utf8() -> None:
    assert decode("# größer als null, für später\n".encode() + b"\xff\n") == Decoded(
        "# größer als null, für später\n\ufffd\n", "utf-8", "replaced"
    )


@pytest.mark.parametrize(
    ("head", "encoding", "read_as"),
    [
        ("# -*- coding: latin-1 -*-\n", "latin-1", "cp1252"),
        ("#!/usr/bin/python\n# vim: set fileencoding=cp1251 :\n", "cp1251", "cp1251"),
        ("# encoding: iso-8859-15\n", "iso-8859-15", "iso8859-15"),
        ("# -*- coding: cp1250-dos -*-\n", "cp1250", "cp1250"),
        (";;; notes.el -*- coding: koi8-r -*-\n", "koi8-r", "koi8-r"),
        ("<?xml version='1.0' encoding='ISO-8859-2'?>\n", "iso-8859-2", "iso8859-2"),
        ('<html><head><meta charset="windows-1251">\n', "cp1251", "cp1251"),
        ('<META http-equiv="Content-Type" content="text/html; charset=windows-1253">\n', "cp1253", "cp1253"),
        ('@charset "windows-1250";\n', "cp1250", "cp1250"),
        ("# coding: gbk\n", "gbk", "gb18030"),
        ("# coding: shift_jis\n", "shift_jis", "cp932"),
        ("# coding: iso-2022-jp\n", "iso-2022-jp", "iso2022_jp"),
        ("# coding: euc-kr\n", "euc-kr", "cp949"),
    ],
)
def test_declared_encodings(head: str, encoding: str, read_as: str) -> None:
    letters = {"gbk": "总金额", "shift_jis": "合計", "iso-2022-jp": "合計", "euc-kr": "합계", "cp1253": "σύνολο"}
    letters |= dict.fromkeys(("cp1251", "koi8-r"), "сумма")
    text = f"{head}{letters.get(encoding, 'söß')} = 1\n"
    assert decode(text.encode(encoding)) == Decoded(text, read_as, "declared")


@pytest.mark.parametrize(
    "head",
    [
        "x = 'coding: cp1251'\n\n\n# coding: latin-2\n",  # not in the first two lines
        "# coding: rot13\n",
        "# coding: utf-7\n",
        "# coding: unicode_escape\n",
        "# coding: no-such-thing\n",
        "# coding: cp500\n",  # EBCDIC
        "<?xml version='1.0' encoding='utf-16'?>\n",
    ],
)
def test_what_is_no_declaration_of_an_encoding(head: str) -> None:
    decoded = decode(head.encode() + "name = 'café'\n".encode("cp1252"))
    assert decoded == Decoded(f"{head}name = 'café'\n", "cp1252", "guessed")


def test_valid_utf8_is_utf8_whatever_is_declared() -> None:
    text = "# coding: latin-1\ngrüße = 1\n"
    assert decode(text.encode()) == Decoded(text)


def test_a_wrong_declaration_is_not_believed() -> None:
    text = f"# coding: ascii\n{RUSSIAN}"
    assert decode(text.encode("cp1251")) == Decoded(text, "cp1251", "guessed")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_byte_order_marks(encoding: str) -> None:
    text = 'public class Invoice { string Grüße = "合計"; }\r\n'
    data = ("\ufeff" + text).encode(encoding)
    assert not is_binary(data)
    assert decode(data) == Decoded(text, encoding, "byte order mark")
    assert is_binary(text.encode(encoding))


def test_the_mark_of_utf8_is_removed() -> None:
    assert decode("\ufeffx = 1\n".encode("utf-16-le").join([codecs.BOM_UTF16_LE, b""])) == Decoded(
        "x = 1\n", "utf-16-le", "byte order mark"
    )
    assert decode(codecs.BOM_UTF8 + b"x = 1\n") == Decoded("x = 1\n")


@pytest.mark.parametrize(
    "data",
    [
        b"x = 1\0\n",
        codecs.BOM_UTF16_LE + b"\0\0a\0",  # a NUL character
        codecs.BOM_UTF16_LE + b"a\0b",  # half a character
        bytes(range(1, 256)) * 4,
    ],
)
def test_binary(data: bytes) -> None:
    assert decode(data) is None


def test_a_pdf_is_binary() -> None:
    assert is_binary(b"%PDF-1.4\nstream\n")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("one\rtwo\r", "one\ntwo\n"),
        ("one\rtwo\rthree\nfour\r", "one\ntwo\nthree\nfour\n"),  # most lines end so
        ("one\r\ntwo\r\n", "one\r\ntwo\r\n"),
        ("one\ntwo\rstill two\nthree\n", "one\ntwo\rstill two\nthree\n"),
        ("one\r\r\ntwo\n", "one\r\r\ntwo\n"),
        ("", ""),
    ],
)
def test_carriage_returns_are_line_ends_where_most_lines_end_so(text: str, read: str) -> None:
    assert decode(text.encode()) == Decoded(read)


@given(st.text(st.characters(exclude_characters="\0\r\ufeff", exclude_categories=["Cs"])))
def test_utf8_without_carriage_returns_is_read_as_it_is(text: str) -> None:
    assert decode(text.encode()) in (Decoded(text), None if text.startswith("%PDF-") else Decoded(text))


def test_one_long_line_takes_no_longer_than_many() -> None:
    """A regular expression that looks for such lines would take the square of their length."""
    decoded = decode(b"x = 1; " * 100_000 + b"\nname = 'caf\xe9'\n")
    assert decoded is not None
    assert decoded.how == "guessed"


@given(st.binary(max_size=300))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    decoded = decode(data)
    assert decoded is None or "\0" not in decoded.text
