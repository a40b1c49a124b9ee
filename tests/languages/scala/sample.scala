package shop.core

import scala.util.Try

/** An order.
  *
  * @param lines what was bought
  */
@deprecated("old", "1.0")
final case class Order[T](lines: List[Line], rate: Int = 1)(implicit ev: Show[T]) extends Base(rate) with Shipping {
  val total: Int = lines.size
  private val twice: Int => Int = x => x * 2

  /** Ships it. */
  def ship(to: Address)(by: Date): Int = {
    def local(y: Int) = y
    local(1)
  }

  def this(line: Line) = this(List(line), 1)
  override def toString = "order"
  def +(other: Order[T]): Order[T] = other
  def unary_! : Boolean = true
  def rate_=(value: Int): Unit = {}
  def `a quoted name`: Int = 1

  protected def open: Int
  type Key
  type Pairs[A] = List[(A, A)]
}

object Order extends App {
  def apply(line: Line): Order[Line] = new Order(line)

  object Implicits {
    implicit val ordering: Ordering[Line] = new Ordering[Line] {
      def compare(a: Line, b: Line): Int = 0
    }
    implicit def toInt(line: Line): Int = 1
    implicit class Rich(private val text: String) extends AnyVal {
      def shout = text.toUpperCase
    }
  }
}

package object util {
  def half(x: Int) = x / 2
}

// A shape.
sealed trait Shape {
  def area: Double
  def half = area / 2
}

case object Empty extends Shape

class CartSpec extends AnyFlatSpec {
  test("adds items") {
    assert(1 == 1)
  }

  describe("a cart") {
    it("sums") { assert(sum == 1) }
  }

  "A cart" should "be empty" in {
    assert(cart.isEmpty)
  }

  it must "add" in { add() }

  "A stack" when {
    "empty" should {
      "be small" in { small() }
    }
  }
}
