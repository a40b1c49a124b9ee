// Licence.

import Foundation

/// An order.
///
/// - Note: with lines.
@MainActor
public final class Order<T>: Base, Codable where T: Equatable {
    static let shared = Order()
    private(set) var count: Int = 0 {
        didSet { print(count) }
    }

    /** The sum. */
    var total: Int { return lines.count }

    var rate: Int {
        get { 1 }
        set { stored = newValue }
    }

    lazy var label: UILabel = {
        let label = UILabel()
        return label
    }()

    let onClose: (Int) -> Void = { code in
        print(code)
    }

    init(name: String) {
        self.name = name
    }

    required init?(coder: NSCoder) { nil }

    convenience override init() { self.init(name: "") }

    deinit {
        close()
    }

    /// Ships it.
    @discardableResult
    func ship(_ to: Address, by date: Date = Date()) async throws -> Int {
        func local() -> Int { 1 }
        return local()
    }

    func ship(to: String) {}

    class func make() -> Order { Order() }

    static func == (left: Order, right: Order) -> Bool { true }

    subscript(index: Int) -> Line {
        get { lines[index] }
    }

    enum CodingKeys: String, CodingKey {
        case lines, rate
    }

    struct Line {
        func price() -> Int { 1 }
    }

    typealias Handler = (Int) -> Void
}

extension Order: CustomStringConvertible where T: Equatable {
    var description: String { "order" }
}

extension Array.Index {
    func next() -> Int { self + 1 }
}

/// What ships.
protocol Shipping: AnyObject {
    associatedtype Item
    var count: Int { get }
    init(count: Int)
    /// Ships.
    func ship(_ item: Item)
    static func < (left: Self, right: Self) -> Bool
}

indirect enum Tree<T> {
    case leaf(T)
    case node(Tree, Tree)

    mutating func flip() {}
}

extension [String] {
    static func += (left: inout Self, right: Self) {}
    static var `default`: Self { [] }
}

actor Store {
    func load() async {}
}

func area<T: Shape>(of shape: T) -> some View {
    Text("x")
}

prefix operator +++
prefix func +++ (value: Int) -> Int { value }

let twice = { (x: Int) -> Int in
    return 2 * x
}

#if os(iOS)
func platform() -> String { "ios" }
#else
func platform() -> String { "mac" }
#endif

@freestanding(expression)
public macro stringify(_ value: Int) -> String = #externalMacro(module: "M", type: "T")

struct OrderView: View {
    @State private var open = false

    var body: some View {
        VStack {
            Button("ship") { ship() }
        }
    }
}

@Test("adds items") func adds() {}

describe("cart") {
    it("adds") {
        expect(1).to(equal(1))
    }
}

app.get("orders") { request in
    list()
}
