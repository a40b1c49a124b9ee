#!/usr/bin/env groovy
package shop

import groovy.transform.CompileStatic

/**
 * A cart.
 */
@CompileStatic
class Cart<T extends Item> extends Base implements Priced {
    int total
    private List<T> items = [] // of the cart

    Cart(int total) {
        this.total = total
    }

    /** Adds an item. */
    def add(T item, int count = max(1, 2)) {
        if (count > 0) {
            items << item
        } else {
            return
        }
    }

    static <K, V> Map<K, V> index(List<V> values, Closure<K> key) throws IOException {
        return values.collectEntries { [key(it), it] }
    }

    def discount = { price -> price * 0.9 }

    @Override
    String toString() { "Cart $total" }

    interface Listener {
        void changed(Cart cart)
    }
}

trait Priced {
    abstract int price()
    int withTax() { price() * 2 }
}

enum Color { RED, BLUE }

class CartSpec extends Specification {
    def "adds #count items"() {
        given:
        def cart = new Cart(0)
        expect:
        cart.total == 0
        where:
        count << [1, 2]
    }
}

// Says hello.
def hello(name) {
    println "hello {$name}"
}

def run = { args ->
    hello(args[0])
}

String call(Map config = [:]) {
    return config.name
}
