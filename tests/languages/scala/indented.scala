package shop

/** Colours. */
enum Color(val rgb: Int):
  case Red extends Color(1)
  case Green extends Color(2)

  def hex: String = rgb.toHexString

given Ordering[Color] with
  def compare(a: Color, b: Color): Int = 0

given listShow[T](using Show[T]): Show[List[T]] = new Show[List[T]] {}

/** Adds to strings. */
extension (text: String)
  def shout: String = text.toUpperCase
  def times(n: Int): String = text * n

extension [T](items: List[T]) def second: T = items(1)

trait Show[A]:
  extension (a: A) def show: String
  def name: String

object Main:
  @main def run(): Unit =
    println("x")

  // Quick.
  inline def fast(x: Int) = x

class Order(x: Int):
  val a = 1

  def total =
    val y = 1
    y
end Order

opaque type Id = Int

def top(x: Int) = x
