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
