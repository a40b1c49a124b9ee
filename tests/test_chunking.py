"""Chunking: what is found in each language, and the law that no line is lost or changed."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeRelationship, TextNode

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import LANGUAGES, language_of

SNIPPETS = {
    "python": '''\
"""Carts."""
import os

RATE = 0.2


class Cart:
    """A cart.

    Holds items.
    """

    size: int = 0

    def __init__(self):
        self.items = []

    @property
    def total(self):
        r"""Sum of \\d prices."""
        return sum(self.items)

    limit = 9

    class Line:
        async def save(self): ...


# Only a comment.
@cache
def rate(kind):
    def inner():
        "Look it up."
        return RATE

    return inner()


if os.name == "nt":

    def drive(): pass
''',
    "java": """\
package shop;

/** Taxes. */
@Component
public class Tax<T> {
    private int rate = 2;

    /**
     * Adds the tax.
     *
     * @param price before tax
     */
    @Override
    public int withTax(int price) {
        return price * rate;
    }

    Tax() {
    }

    enum Kind { LOW, HIGH }

    // Says hello.
    // Twice.
    void hello() {
        Runnable r = new Runnable() {
            public void run() { }
        };
    }

    abstract int open();
}

interface Shape { double area(); }

record Point(int x, int y) {
    Point {
        x = 0;
    }
}
""",
    "javascript": """\
'use strict';

(function (root) {
  /** Doubles. */
  function twice(x) {
    return 2 * x;
  }

  const half = async (x) => {
    return x / 2;
  };

  exports.third = function (x) {
    return x / 3;
  };

  Cart.prototype.add = function (x) {
    this.items.push(x);
  };
})(this);

// A base.
export class Base extends Object {
  rate = 1;

  // Runs.
  static run() {
    return 1;
  }

  onClick = () => {
    this.run();
  };
}

module.exports = {
  name: 'api',
  get: function () {
    return 1;
  },
  put() {
    return 2;
  },
};

function* ids() {
  yield 1;
}
""",
    "typescript": """\
import { x } from './x';

/** A shape. */
export interface Shape {
  area(): number;
}

export type Id = string | number;

enum Color { Red }

namespace Geo.Flat {
  /** Area. */
  export function area(a: number): number {
    return a;
  }
}

@Component({ a: 1 })
export abstract class Circle<T> implements Shape {
  constructor(private r: number) {}

  abstract name(): string;

  /** The area. */
  @Log()
  area(): number {
    return this.r;
  }

  private grow = (by: number): void => {
    this.r += by;
  };
}

export default function () {
  return 1;
}
""",
    "go": """\
package stack

import "fmt"

// Stack is a stack.
type Stack[T any] struct {
	items []T
}

// Push adds x
// on top.
func (s *Stack[T]) Push(x T) {
	s.items = append(s.items, x)
}

func (Stack[T]) Len() int { return 0 }

type (
	// ID names.
	ID int
	Names []string
)

//go:noinline
func New() *Stack[int] {
	f := func() {}
	f()
	return nil
}
""",
    "php": """\
<?php
namespace App\\Models;

use Foo;

/**
 * A user.
 */
#[Entity]
final class User extends Model
{
    private $name;

    // Gets the name.
    public function name(): string
    {
        return $this->name;
    }

    abstract function x();
}

interface HasName {
    public function name();
}

trait Speaks {
    # Says hi.
    function hi() { return 'hi'; }
}

if (!function_exists('helper')) {
    /** Helps. */
    function helper() {
        return 1;
    }
}
""",
    "ruby": """\
require 'set'

# A module.
module Shop
  class Cart < Base
    attr_reader :items

    # Makes one.
    #
    # Empty.
    def self.build
      new
    end

    private def secret
      1
    end

    class << self
      def all = []
    end
  end
end

=begin
Loose.
=end
def loose(x)
  x
end

describe 'x' do
  def helper
    1
  end
end
""",
    "rust": """\
//! The crate.

use std::fmt;

/// A point.
#[derive(Debug)]
pub struct Point<T> {
    x: T,
}

impl<T> fmt::Display for Point<T> {
    /// Writes it.
    #[inline]
    fn fmt(&self) -> fmt::Result {
        Ok(())
    }
}

pub trait Area {
    fn area(&self) -> f64;
    fn twice(&self) -> f64 {
        2.0 * self.area()
    }
}

enum Kind { A, B }

mod tests {
    use super::*;

    #[test]
    fn works() {
        assert!(true);
    }
}
""",
    "c": """\
/* Licence. */

#include <stdio.h>

struct list {
    int head;
};

typedef struct {
    int x;
} point;

int declared(int x);

#ifdef DEBUG
/* Prints it. */
static char *show(struct list *l)
{
    return 0;
}
#endif

enum kind { A, B };

int (*pick(int a))(int)
{
    return 0;
}
""",
    "cpp": """\
#pragma once

namespace geo {

/// A point.
template <typename T>
class Point {
 public:
  Point() : x(0) {}
  ~Point();

  // The length.
  T length() const {
    return x;
  }

  bool operator==(const Point& o) const { return x == o.x; }

 private:
  T x;
};

template <typename T>
Point<T>::~Point() {
}

struct EXPORT_API Box : Base {
  int& at(int i) { return v[i]; }
};

extern "C" {
void start(void) {
}
}

}  // namespace geo
""",
    "csharp": """\
using System;

namespace Shop.Core
{
    /// <summary>
    /// A cart, see <see cref="Item"/>.
    /// </summary>
    [Serializable]
    public class Cart : ICart
    {
        public int Count { get; set; }

        public Cart() { }

        /// <summary>Adds.</summary>
        public void Add(int x)
        {
            int Twice(int y) => 2 * y;
            Count += Twice(x);
        }

        public static Cart operator +(Cart a, Cart b) => a;

        ~Cart() { }
    }

    public struct Item { }

    public record Price(decimal Value);

    public interface ICart { void Add(int x); }
}
""",
}

Row = tuple[str, str, int, int, str]
EXPECTED: dict[str, list[Row]] = {
    "python": [
        ("class", "Cart", 7, 26, "A cart.\n\nHolds items."),
        ("method", "Cart.__init__", 15, 16, ""),
        ("method", "Cart.total", 18, 21, "Sum of \\d prices."),
        ("class", "Cart.Line", 25, 26, ""),
        ("method", "Cart.Line.save", 26, 26, ""),
        ("function", "rate", 29, 36, ""),
        ("function", "rate.inner", 32, 34, "Look it up."),
        ("function", "drive", 41, 41, ""),
    ],
    "java": [
        ("class", "Tax", 3, 32, "Taxes."),
        ("method", "Tax.withTax", 8, 16, "Adds the tax.\n\n@param price before tax"),
        ("method", "Tax.Tax", 18, 19, ""),
        ("class", "Tax.Kind", 21, 21, ""),
        ("method", "Tax.hello", 23, 29, "Says hello.\nTwice."),
        ("method", "Tax.hello.run", 27, 27, ""),
        ("class", "Shape", 34, 34, ""),
        ("class", "Point", 36, 40, ""),
        ("method", "Point.Point", 37, 39, ""),
    ],
    "javascript": [
        ("function", "twice", 4, 7, "Doubles."),
        ("function", "half", 9, 11, ""),
        ("function", "third", 13, 15, ""),
        ("method", "Cart.add", 17, 19, ""),
        ("class", "Base", 22, 34, "A base."),
        ("method", "Base.run", 26, 29, "Runs."),
        ("method", "Base.onClick", 31, 33, ""),
        ("method", "get", 38, 40, ""),
        ("method", "put", 41, 43, ""),
        ("function", "ids", 46, 48, ""),
    ],
    "typescript": [
        ("class", "Shape", 3, 6, "A shape."),
        ("class", "Id", 8, 8, ""),
        ("class", "Color", 10, 10, ""),
        ("function", "Geo.Flat.area", 13, 16, "Area."),
        ("class", "Circle", 19, 34, ""),
        ("method", "Circle.constructor", 21, 21, ""),
        ("method", "Circle.area", 25, 29, "The area."),
        ("method", "Circle.grow", 31, 33, ""),
        ("function", "default", 36, 38, ""),
    ],
    "go": [
        ("class", "Stack", 5, 8, "Stack is a stack."),
        ("method", "Stack.Push", 10, 14, "Push adds x\non top."),
        ("method", "Stack.Len", 16, 16, ""),
        ("class", "ID", 19, 20, "ID names."),
        ("class", "Names", 21, 21, ""),
        ("function", "New", 24, 29, ""),
    ],
    "php": [
        ("class", "User", 6, 21, "A user."),
        ("method", "User.name", 14, 18, "Gets the name."),
        ("class", "HasName", 23, 25, ""),
        ("class", "Speaks", 27, 30, ""),
        ("method", "Speaks.hi", 28, 29, "Says hi."),
        ("function", "helper", 33, 36, "Helps."),
    ],
    "ruby": [
        ("class", "Shop", 3, 23, "A module."),
        ("class", "Shop.Cart", 5, 22, ""),
        ("method", "Shop.Cart.build", 8, 13, "Makes one.\n\nEmpty."),
        ("method", "Shop.Cart.secret", 15, 17, ""),
        ("method", "Shop.Cart.all", 20, 20, ""),
        ("function", "loose", 25, 30, "Loose."),
        ("function", "helper", 33, 35, ""),
    ],
    "rust": [
        ("class", "Point", 5, 9, "A point."),
        ("class", "Point", 11, 17, ""),
        ("method", "Point.fmt", 12, 16, "Writes it."),
        ("class", "Area", 19, 24, ""),
        ("method", "Area.twice", 21, 23, ""),
        ("class", "Kind", 26, 26, ""),
        ("function", "tests.works", 31, 34, ""),
    ],
    "c": [
        ("class", "list", 5, 7, ""),
        ("class", "point", 9, 11, ""),
        ("function", "show", 16, 20, "Prints it."),
        ("class", "kind", 23, 23, ""),
        ("function", "pick", 25, 28, ""),
    ],
    "cpp": [
        ("class", "Point", 5, 21, "A point."),
        ("method", "Point.Point", 9, 9, ""),
        ("method", "Point.length", 12, 15, "The length."),
        ("method", "Point.operator==", 17, 17, ""),
        ("method", "Point.~Point", 23, 25, ""),
        ("class", "Box", 27, 29, ""),
        ("method", "Box.at", 28, 28, ""),
        ("function", "start", 32, 33, ""),
    ],
    "csharp": [
        ("class", "Cart", 5, 25, "A cart, see Item."),
        ("method", "Cart.Cart", 13, 13, ""),
        ("method", "Cart.Add", 15, 20, "Adds."),
        ("function", "Cart.Add.Twice", 18, 18, ""),
        ("method", "Cart.operator +", 22, 22, ""),
        ("method", "Cart.~Cart", 24, 24, ""),
        ("class", "Item", 27, 27, ""),
        ("class", "Price", 29, 29, ""),
        ("class", "ICart", 31, 31, ""),
    ],
}


def parse(text: str, path: str = "a.py", **options: int) -> list[TextNode]:
    nodes = CodeNodeParser(**options).get_nodes_from_documents([Document(text=text, metadata={"path": path})])  # type: ignore[arg-type]
    return [node for node in nodes if isinstance(node, TextNode)]


def path_for(language: str) -> str:
    return f"a.{LANGUAGES[language].extensions[0]}"


def rows(nodes: Sequence[BaseNode]) -> list[Row]:
    return [tuple(n.metadata[key] for key in ("kind", "scope", "start_line", "end_line", "docstring")) for n in nodes]


def assert_law(text: str, path: str, **options: int) -> None:
    """No line is lost or changed, none is in a node of more than max_lines; ids differ, characters are exact."""
    nodes = parse(text, path, **options)
    lines = text.split("\n")
    covered: set[int] = set()
    for node in nodes:
        start, end = node.metadata["start_line"], node.metadata["end_line"]
        assert node.text == "\n".join(lines[start - 1 : end])
        assert node.text == text[node.start_char_idx : node.end_char_idx]
        assert lines[start - 1].strip()
        assert lines[end - 1].strip()
        assert end - start < options.get("max_lines", 60)
        covered.update(range(start, end + 1))
    assert covered >= {number for number, line in enumerate(lines, start=1) if line.strip()}
    assert len({node.node_id for node in nodes}) == len(nodes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_definitions_of_every_language(language: str) -> None:
    found = definitions(SNIPPETS[language], language)
    assert [(d.kind, d.scope, d.start_line, d.end_line, d.docstring) for d in found] == EXPECTED[language]
    assert all(d.scope.endswith(d.symbol) for d in found)


def test_nodes_of_a_python_file() -> None:
    assert rows(parse(SNIPPETS["python"])) == [
        ("module", "", 1, 4, ""),
        ("class", "Cart", 7, 13, "A cart.\n\nHolds items."),
        ("method", "Cart.__init__", 15, 16, ""),
        ("method", "Cart.total", 18, 21, "Sum of \\d prices."),
        ("class", "Cart", 23, 23, ""),
        ("class", "Cart.Line", 25, 25, ""),
        ("method", "Cart.Line.save", 26, 26, ""),
        ("function", "rate", 29, 36, ""),  # with the function inside
        ("module", "", 39, 39, ""),
        ("function", "drive", 41, 41, ""),
    ]


def test_closing_lines_go_with_the_node_before() -> None:
    assert rows(parse(SNIPPETS["cpp"], "a.cc")) == [
        ("module", "", 1, 3, ""),
        ("class", "Point", 5, 8, "A point."),
        ("method", "Point.Point", 9, 9, ""),
        ("class", "Point", 10, 10, ""),
        ("method", "Point.length", 12, 15, "The length."),
        ("method", "Point.operator==", 17, 17, ""),
        ("class", "Point", 19, 21, ""),
        ("method", "Point.~Point", 23, 25, ""),
        ("class", "Box", 27, 27, ""),
        ("method", "Box.at", 28, 29, ""),
        ("module", "", 31, 31, ""),
        ("function", "start", 32, 36, ""),
    ]
    assert rows(parse(SNIPPETS["ruby"], "a.rb"))[-1] == ("function", "helper", 33, 36, "")


def test_class_header_is_the_parent() -> None:
    nodes = {(n.metadata["scope"], n.metadata["start_line"]): n for n in parse(SNIPPETS["python"])}
    cart, line, save = nodes["Cart", 7], nodes["Cart.Line", 25], nodes["Cart.Line.save", 26]
    members = [nodes["Cart.__init__", 15], nodes["Cart.total", 18], nodes["Cart", 23], line]
    assert cart.parent_node is None
    assert [child.node_id for child in cart.child_nodes or []] == [node.node_id for node in members]
    assert {node.parent_node.node_id for node in members if node.parent_node} == {cart.node_id}
    assert save.parent_node is not None
    assert save.parent_node.node_id == line.node_id
    assert nodes["rate", 29].parent_node is None


def test_class_on_one_line_is_one_node() -> None:
    assert rows(parse("class A { int f() { return 1; } int g() { return 2; } }", "A.java")) == [
        ("class", "A", 1, 1, "")
    ]
    assert rows(parse("function f() {} function g() {}\n", "a.js")) == [("function", "f", 1, 1, "")]
    # a member that starts on the first line of a class of several lines leaves it a header of that line
    assert rows(parse("class A { int f() {\n return 1; }\n int x;\n}", "A.java")) == [
        ("class", "A", 1, 1, ""),
        ("method", "A.f", 1, 2, ""),
        ("class", "A", 3, 4, ""),
    ]


def test_long_function_is_split_between_statements() -> None:
    body = [f"    if a > {i}:\n        a = f(\n            {i},\n        )" for i in range(6)]  # four lines each
    text = "def g(a):\n    '''Go.'''\n" + "\n".join(body) + "\n    return a\n"
    parts = parse(text, max_lines=12, overlap_lines=3)
    # windows of 12 lines from 1, 8 and 16; the last `if` in the later half of each starts at 11, 19 and 27 (`return`)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in parts] == [(1, 10), (8, 18), (16, 27)]
    assert [(n.metadata["part"], n.metadata["parts"], n.metadata["scope"]) for n in parts] == [
        (1, 3, "g"),
        (2, 3, "g"),
        (3, 3, "g"),
    ]
    assert {n.metadata["docstring"] for n in parts} == {"Go."}
    assert [n.next_node.node_id for n in parts[:-1] if n.next_node] == [n.node_id for n in parts[1:]]
    assert [n.prev_node.node_id for n in parts[1:] if n.prev_node] == [n.node_id for n in parts[:-1]]
    assert "part" not in parse("def g(): pass")[0].metadata


def test_text_without_statements_is_cut_hard() -> None:
    text = "x = '''\n" + "a\n" * 18 + "'''"
    nodes = parse(text, max_lines=8, overlap_lines=2)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in nodes] == [(1, 8), (7, 14), (13, 20)]


def test_long_function_with_functions_inside_is_opened() -> None:
    inner = "\n".join(f"    def f{i}():\n        return {i}\n" for i in range(4))
    text = f"def outer():\n    'Doc.'\n    x = 1\n\n{inner}\n    return x\n"
    assert rows(parse(text, max_lines=100)) == [("function", "outer", 1, 17, "Doc.")]
    assert rows(parse(text, max_lines=8, overlap_lines=2)) == [
        ("function", "outer", 1, 3, "Doc."),
        ("function", "outer.f0", 5, 6, ""),
        ("function", "outer.f1", 8, 9, ""),
        ("function", "outer.f2", 11, 12, ""),
        ("function", "outer.f3", 14, 15, ""),
        ("function", "outer", 17, 17, ""),
    ]


def test_unknown_language_and_broken_code_become_windows() -> None:
    text = "\n".join(f"line {i}" for i in range(1, 21))
    nodes = parse(text, "notes.txt", max_lines=10, overlap_lines=4)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in nodes] == [(1, 10), (7, 16), (13, 20)]
    assert {(n.metadata["kind"], n.metadata["language"], n.metadata["scope"]) for n in nodes} == {("window", "", "")}
    broken = "@@ ) = {\n" * 20
    assert {n.metadata["kind"] for n in parse(broken, "a.go")} == {"window"}
    assert definitions(broken, "go") == []
    # one bad line is no reason to give up
    one_bad = SNIPPETS["java"].replace("private int rate = 2;", "private int = = 2;")
    assert "Tax.withTax" in {n.metadata["scope"] for n in parse(one_bad, "A.java")}


def test_header_may_be_cpp_and_typescript_may_hold_jsx() -> None:
    header = "class A : public B {\n public:\n  virtual int f() const { return 1; }\n};\n"
    assert [(d.kind, d.scope) for d in definitions(header, "c")] == [("class", "A"), ("method", "A.f")]
    assert [d.scope for d in definitions("const A = () => { return <b>hi</b>; };\n", "typescript")] == ["A"]


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.PY", "python"),
        (Path("x.hpp"), "cpp"),
        ("x.h", "c"),
        ("x.tsx", "typescript"),
        ("Makefile", None),
        ("", None),
    ],
)
def test_language_of(path: str | Path, language: str | None) -> None:
    assert language_of(path) == language


def test_language_from_metadata_then_path_then_field() -> None:
    parser = CodeNodeParser(language="ruby")
    code = "def f\nend\n"

    def languages(**metadata: object) -> set[str]:
        nodes = parser.get_nodes_from_documents([Document(text=code, metadata=metadata)])
        return {node.metadata["language"] for node in nodes}

    assert languages() == {"ruby"}
    assert languages(file_name="a.go") == {"go"}
    assert languages(file_path="a.go", language="php") == {"php"}
    assert languages(path="a.go", file_path="a.py", language="English") == {"go"}
    document = Document(text=code, doc_id="some-id")
    assert parser.get_nodes_from_documents([document])[0].metadata["path"] == "some-id"


@pytest.mark.parametrize(("max_lines", "overlap"), [(2, 0), (4, 1), (10, 2), (23, 5), (24, 6), (60, 6), (1000, 6)])
def test_the_default_overlap_follows_from_max_lines(max_lines: int, overlap: int) -> None:
    assert CodeNodeParser(max_lines=max_lines).overlap_lines == overlap


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_lines": 1}, "max_lines must be at least 2, got 1"),
        ({"max_lines": 10, "overlap_lines": 5}, r"overlap_lines must be .* \(10 // 2\), got 5; lower it or raise max"),
        ({"max_lines": 10, "overlap_lines": -1}, "overlap_lines must be at least 0 .* got -1"),
        ({"max_lines": "ten"}, "max_lines: Input should be a valid integer, got 'ten'"),
        ({"language": "cobol"}, "unknown language 'cobol'; known are python, java"),
        ({"id_func": {"id_func_name": "mine"}}, "id_func: 'mine' cannot be restored from its name; pass id_func="),
    ],
)
def test_wrong_settings_are_refused_in_plain_words(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        CodeNodeParser(**settings)
    assert type(caught.value) is ValueError
    assert "pydantic" not in str(caught.value)


def test_settings_are_frozen_and_known() -> None:
    with pytest.raises(ValueError, match="max_lines: Field is frozen, got 1; make a new CodeNodeParser") as caught:
        CodeNodeParser().max_lines = 1
    assert "pydantic" not in str(caught.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_line'"):
        CodeNodeParser(max_line=10)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="unknown language 'cobol'; known are python, java"):
        definitions("", "cobol")


def test_embedded_text_is_the_code_and_the_document_keeps_its_metadata() -> None:
    document = Document(text="def f():\n    return 1\n", metadata={"file_path": "src/a.py", "team": "x", "kind": "y"})
    [node] = CodeNodeParser().get_nodes_from_documents([document])
    assert node.metadata["team"] == "x"
    assert (node.metadata["kind"], node.metadata["path"]) == ("function", "src/a.py")
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == "def f():\n    return 1"
    assert sorted(node.get_metadata_str(mode=MetadataMode.LLM).split("\n")) == [
        "end_line: 2",
        "path: src/a.py",
        "scope: f",
        "start_line: 1",
    ]
    assert node.source_node is not None
    assert node.source_node.node_id == document.node_id


def test_equal_texts_have_their_own_places() -> None:
    text = "class A:\n    def f(self): pass\n\nclass B:\n    def f(self): pass\n\nx = 1\nclass A:\n    y = 2\n"
    # `class A:` is the text of a node and the beginning of another
    for path in ("a.py", "a.txt"):
        assert_law(text, path)
    places = [n.start_char_idx for n in parse(text) if n.metadata["symbol"] == "f"]
    assert places == [text.index("    def"), text.rindex("    def")]


def test_ids_depend_on_the_file_alone() -> None:
    first, second = parse(SNIPPETS["go"], "a.go"), parse(SNIPPETS["go"], "a.go")
    assert [n.node_id for n in first] == [n.node_id for n in second]
    assert not {n.node_id for n in first} & {n.node_id for n in parse(SNIPPETS["go"], "b.go")}
    # sha256(b"a.py\0" b"1\0" b"1\0" b"x = 1")[:16], by hashlib
    assert parse("x = 1\n")[0].node_id == "c32852e1-6c01-cf69-ecf5-c1e3e9c66fd5"
    own = CodeNodeParser(id_func=lambda i, document: f"{document.node_id}-{i}")
    nodes = own.get_nodes_from_documents(
        [Document(text="x = 1\ndef f(): pass\n", doc_id="d", metadata={"path": "a.py"})]
    )
    assert [n.node_id for n in nodes] == ["d-0", "d-1"]


def test_pipeline_and_serialisation() -> None:
    parser = CodeNodeParser(max_lines=20, overlap_lines=2, language="go")
    again = CodeNodeParser.from_dict(parser.to_dict())
    assert parser.class_name() == parser.to_dict()["class_name"] == "CodeNodeParser"
    assert (again.max_lines, again.overlap_lines, again.language) == (20, 2, "go")
    assert CodeNodeParser.from_json(parser.to_json()).to_dict() == parser.to_dict()
    with pytest.raises(ValueError, match="pass id_func="):
        CodeNodeParser.from_dict({**parser.to_dict(), "id_func": {"id_func_name": "mine", "title": "id_func"}})
    documents = [Document(text=SNIPPETS[name], metadata={"path": path_for(name)}) for name in LANGUAGES]
    nodes = IngestionPipeline(transformations=[parser]).run(documents=documents)
    assert [n.node_id for n in nodes] == [n.node_id for n in again.get_nodes_from_documents(documents)]
    assert {n.metadata["language"] for n in nodes} == set(LANGUAGES)
    assert [TextNode.from_dict(n.to_dict()) for n in nodes] == nodes
    # a node of another transformation is as good as a document
    [node] = parser([TextNode(text="x = 1", metadata={"path": "a.py"})])
    assert node.get_content(metadata_mode=MetadataMode.NONE) == "x = 1"


def only(source: str, language: str, scope: str) -> Definition:
    [definition] = [d for d in definitions(source, language) if d.scope == scope]
    return definition


def test_code_without_docstring() -> None:
    assert only(SNIPPETS["python"], "python", "Cart.total").code_without_docstring == (
        "    @property\n    def total(self):\n        return sum(self.items)"
    )
    assert only(SNIPPETS["python"], "python", "rate").code_without_docstring.startswith("# Only a comment.\n@cache\n")
    assert only(SNIPPETS["java"], "java", "Tax.withTax").code_without_docstring == (
        "    @Override\n    public int withTax(int price) {\n        return price * rate;\n    }"
    )
    assert only(SNIPPETS["go"], "go", "Stack.Push").code_without_docstring == (
        "func (s *Stack[T]) Push(x T) {\n\ts.items = append(s.items, x)\n}"
    )
    assert only(SNIPPETS["ruby"], "ruby", "Shop.Cart.build").code_without_docstring == (
        "    def self.build\n      new\n    end"
    )


@pytest.mark.parametrize(
    ("source", "docstring", "code"),
    [
        ("def f():\n    '''Go.'''\n", "Go.", "def f():\n    pass"),
        ("def f(): 'Go.'\n", "Go.", "def f(): pass"),
        ("def f():\n    'Go.'; return 1\n", "Go.", "def f():\n    return 1"),
        ("def f():\n    'é' 'ü'  # é\n    return 1\n", "éü", "def f():\n    # é\n    return 1"),
        ("def f():\n    '''A\n\n      b\n    '''\n\n    return 1\n", "A\n\nb", "def f():\n\n    return 1"),
        ("def f():\r\n    '''A\r\n    b'''\r\n    return 1\r\n", "A\nb", "def f():\r\n    return 1\r"),
        ("def f():\n    'a\\tb \\'c\\' \\d'\n    return 1\n", "a       b 'c' \\d", "def f():\n    return 1"),
        ("def f():\n    f'no'\n", "", "def f():\n    f'no'"),
        ("def f():\n    b'no'\n", "", "def f():\n    b'no'"),
        ("def f():\n    'no' + x\n", "", "def f():\n    'no' + x"),
    ],
)
def test_python_docstrings(source: str, docstring: str, code: str) -> None:
    [definition] = definitions(source, "python")
    assert (definition.docstring, definition.code_without_docstring) == (docstring, code)


@pytest.mark.parametrize(
    ("source", "docstring", "start"),
    [
        ("// Licence\n\nfunction f() {}", "", 3),
        ("let x = 1; // of x\nfunction f() {}", "", 2),
        ("/* a */ /* b */\nfunction f() {}", "", 2),
        ("// ------\n// Runs.\n// ------\nfunction f() {}", "Runs.", 1),
        ("/* Runs. */\nfunction f() {}", "Runs.", 1),
        ("/**\n * Runs.\n *\n *   - one\n **/\nfunction f() {}", "Runs.\n\n  - one", 1),
        ("/// Runs.\n// eslint-disable-next-line\nfunction f() {}", "Runs.", 1),
    ],
)
def test_doc_comments(source: str, docstring: str, start: int) -> None:
    [definition] = definitions(source, "javascript")
    assert (definition.docstring, definition.start_line) == (docstring, start)


ODD = {
    "empty": "",
    "blank": " \n\t\n\x0c\n",
    "null": "def f():\n\0\0 pass\n",
    "surrogate": "def f():\n  '''\ud800'''\n  return '\udfff'\n",
    "crlf": "def f():\r\n    return 1\r\n",
    "cr": "def f():\r    return 1\r",
    "form feed": "\x0cdef f():\n  pass\n\x0c\nx\x0b\x85 = 1\u2028y = 2",
    "long line": "x = " + "1+" * 50_000 + "1",
    "word": "a" * 100_000,
    "parentheses": "(" * 20_000 + ")" * 20_000,
    "parentheses on lines": "(\n" * 5_000,
    "classes": "class A {\n" * 3_000 + "}\n" * 3_000,
    "functions": "function a() {\n" * 3_000 + "}\n" * 3_000,
    "closers": "}" + ")" * 300 + "x\n" + " " * 2_000 + "\n}" * 50,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_inputs(name: str) -> None:
    for language in ("python", "javascript", "go", "cpp"):
        definitions(ODD[name], language)
        assert_law(ODD[name], path_for(language))
    assert_law(ODD[name], "a.txt")


def test_nothing_to_say_makes_no_nodes() -> None:
    for path in ("a.py", "a.rb", "a.txt"):
        assert parse("", path) == parse(ODD["blank"], path) == []


PARTS = st.one_of(
    st.sampled_from(sorted(SNIPPETS.values())).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda c: text[min(c) : max(c)]
        )
    ),
    st.text(max_size=30),
    st.sampled_from(["}\n", "{", "\n\n", "class A { int f() {", "*/", "'''", "end\n", "\r\n", "\0", "#endif\n"]),
)


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(PARTS, max_size=5).map("".join),
    language=st.sampled_from(sorted(LANGUAGES)),
    lines=st.sampled_from([(2, 0), (7, 2), (60, 6)]),
)
@example(text="def f(): pass\n\n\n\n\n\n\n\n\nx\n", language="python", lines=(2, 0))
def test_no_line_is_lost_or_changed(text: str, language: str, lines: tuple[int, int]) -> None:
    assert_law(text, path_for(language), max_lines=lines[0], overlap_lines=lines[1])
    for definition in definitions(text, language):
        assert 1 <= definition.start_line <= definition.end_line <= text.count("\n") + 1
        assert definition.symbol


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_no_line_of_any_text_is_lost(text: str) -> None:
    for path in ("a.py", "a.php", "a.txt"):
        assert_law(text, path, max_lines=4, overlap_lines=1)


def test_real_files() -> None:
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    files = random.Random(0).sample(sorted(library.glob("*.py")), 40)
    files += [library / name for name in ("typing.py", "argparse.py", "turtle.py")]
    for pattern in ("sklearn/**/*.cpp", "sklearn/**/*.js", "numpy/**/*.h", "numpy/**/*.c", "torch/include/c10/**/*.h"):
        found = sorted(packages.glob(pattern))
        files += random.Random(0).sample(found, min(8, len(found)))
    for file in files:
        assert_law(file.read_text(encoding="utf-8", errors="replace"), str(file))


def test_standard_library_functions_are_found() -> None:
    source = inspect.getsource(textwrap)
    nodes = {n.metadata["scope"]: n for n in parse(source, "textwrap.py")}
    for function in (textwrap.wrap, textwrap.dedent, textwrap.indent, textwrap.TextWrapper.fill):
        lines, start = inspect.getsourcelines(function)
        node = nodes[function.__qualname__]
        assert node.metadata["docstring"][:2000] == inspect.getdoc(function)
        assert node.metadata["start_line"] == start
        assert node.text.strip() == "".join(lines).strip()


def test_grammars_are_loaded_on_first_use() -> None:
    code = "import sys, llamaindex_code_retrieval.chunking; print([m for m in sys.modules if 'tree_sitter_' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_relations_name_nodes_that_exist() -> None:
    for language, text in SNIPPETS.items():
        nodes = parse(text, path_for(language), max_lines=6, overlap_lines=1)
        ids = {n.node_id for n in nodes}
        for node in nodes:
            related = [node.parent_node, node.prev_node, node.next_node, *(node.child_nodes or [])]
            assert {each.node_id for each in related if each} <= ids - {node.node_id}
        assert NodeRelationship.PREVIOUS not in nodes[0].relationships
