"""A snippet of each language, and the definitions in it."""

from __future__ import annotations

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
