import 'package:meta/meta.dart';

/// A point.
///
/// With two axes.
@immutable
class Point extends Shape with Drawn implements Comparable<Point> {
  const Point(this.x, this.y);
  Point.origin() : this(0, 0);
  Point.named({required this.x, required this.y}) : super() {
    check();
  }
  factory Point.fromJson(Map<String, dynamic> json) => Point(json['x'], json['y']);
  const factory Point.fixed(int x) = FixedPoint;

  final int x, y;
  static const zero = Point(0, 0);
  late final VoidCallback onMoved = () {
    print(x);
  };

  /// The sum.
  @override
  int get sum => x + y;
  set sum(int value) {
    print(value);
  }

  Point operator +(Point other) => Point(x + other.x, y + other.y);
  @override
  bool operator ==(Object other) => other is Point && other.x == x;

  // Moves it.
  Future<void> move<T>(T by) async {
    final steps = [1, 2].map((step) => step * 2).toList();
    int twice(int step) => step * 2;
    final half = (int step) => step ~/ 2;
    await Future.delayed(Duration.zero, () => steps);
  }

  static Point of(BuildContext context) => zero;
  external int area();
}

abstract interface class Shape {
  /// Draws it.
  void draw();
  int get corners;
}

mixin Drawn on Shape {
  void paint() {}
}

base mixin class Mixed {}

class Alias = Shape with Drawn;

extension Texts on String {
  String twice() => this + this;
}

extension on int {
  int next() => this + 1;
}

extension type Id(int value) {
  bool get isValid => value > 0;
}

/// The colors.
enum Color {
  red('r'),
  green('g');

  const Color(this.code);
  final String code;
  String label() => code;
}

typedef Callback = void Function(int);
typedef int Compare(int a, int b);

int get answer => 42;

final handler = (Request request) => Response.ok('x');
final cartProvider = Provider<Cart>((ref) => Cart());

/// Starts.
@pragma('vm:entry-point')
void main() {
  group('Cart', () {
    setUp(() {
      cart = Cart();
    });

    test('adds', () async {
      expect(cart.items.map((item) => item.id), isEmpty);
    });

    testWidgets(
      'shows $name '
      'and price',
      (tester) async {},
    );

    blocTest<CartBloc, CartState>(
      'emits',
      build: () => CartBloc(),
    );
  });
}

external void native();

extension on shop.Cart<int> {}

extension on List<int> {}

String sign(String key)
    // Twice.
    => key + key;
