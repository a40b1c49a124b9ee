@file:JvmName("Orders")

package shop

import kotlin.math.max

/**
 * An order.
 *
 * @property lines what was bought
 */
@Serializable
data class Order(val lines: List<Line>, private val rate: Int = 2) : Base(), Comparable<Order> {
    var count: Int = 0

    /** The sum. */
    val total: Int
        get() = lines.sumOf { it.price }

    var note: String = ""
        set(value) {
            field = value.trim()
        }

    val first by lazy { lines.first() }

    private val onClose = { code: Int ->
        println(code)
    }

    init {
        require(rate > 0)
    }

    constructor(line: Line) : this(listOf(line)) {
        count = 1
    }

    // Compares.
    override operator fun compareTo(other: Order): Int = total - other.total

    suspend fun <T : Any> ship(to: T): Int where T : Address {
        fun local(x: Int): Int = x
        return local(1)
    }

    fun List<Line>.price() = sumOf { it.price }

    inner class Packer {
        fun pack() {}
    }

    companion object {
        const val MAX = 10

        @JvmStatic
        fun of(vararg lines: Line): Order = Order(lines.toList())
    }
}

class Invoice private constructor() {
    companion object Factory {
        fun create(): Invoice = Invoice()
    }
}

/** Shouts. */
fun String?.shout(): String = this.orEmpty().uppercase()

inline fun <reified T> Map<String, List<T>>.only(key: String): T = getValue(key).single()

val String.last: Char
    get() = this[length - 1]

// A fun interface.
fun interface Listener {
    fun onEvent(event: String)
}

sealed interface Shape {
    object Point : Shape

    data object Unit : Shape

    /** The area. */
    abstract fun area(): Int

    fun half() = area() / 2
}

enum class Level(val value: Int) {
    LOW(1) {
        override fun rate() = 1
    },
    HIGH(2);

    open fun rate(): Int = value
}

object Registry {
    fun register(name: String) {}
}

typealias Handler = (Int) -> Unit

annotation class Marked(val why: String)

@JvmInline
value class Id(val value: String)

expect fun platform(): String

val twice = fun(x: Int): Int {
    return 2 * x
}

val listener = object : Listener {
    override fun onEvent(event: String) {}
}

fun `a quoted name`() {}

fun Route.orders() {
    get("/orders") {
        call.respond(list())
    }
    app.post("/orders") { call.respond(1) }
}

class OrderTest : FunSpec({
    test("adds") {
        1 shouldBe 1
    }
    "a name" {
        2 shouldBe 2
    }
})

class Size {
    actual val size
        @JvmName("size")
        get() = length()

    var count: Int
        @JvmName("count") get() = length()
        @Internal set(value) { resize(value) }

    fun length() = 1
}
