package shop;

/** Adapters. */
public final class Adapters {
    /** Reads numbers. */
    public static final Adapter<Number> NUMBER = new Adapter<Number>() {
        @Override
        public Number read(Reader in) {
            return in.next();
        }
    };

    private final Runnable clear = () -> {
        items.clear();
    };
    private final Supplier<Integer> one = () -> 1;

    static {
        init();
    }

    enum Kind {
        LOW {
            @Override int rate() { return 1; }
        },
        HIGH;

        int rate() { return 2; }
    }

    /** Marks a field. */
    @interface Marked {
        /** Its name. */
        String value() default "";
        Class<?>[] kinds() default {};
    }

    // Overloaded.
    <T extends Comparable<T>> T max(T a, T b) throws IOException { return a; }
    int max(int... values) { return 0; }
    int[] grid()[] { return null; }

    native int size();

    void routes(Router router) {
        router.get("/orders", context -> {
            context.render(list());
        });
        router.get("/health", Health::check);
        Comparator<String> byLength = (a, b) -> { return a.length() - b.length(); };
        var sink = new Sink() {
            void put(int x) { }
        };
        class Local {
            void inner() { }
        }
    }

    sealed interface Shape permits Circle {
        /** The area. */
        double area();
        default double half() { return area() / 2; }
        static Shape unit() { return new Circle(1); }
    }

    record Circle(double r) implements Shape {
        Circle {
            check(r);
        }
        public double area() { return r * r; }
    }
}

abstract class Base<T> {
    protected Base() { this(1); }
    abstract T open();
}
