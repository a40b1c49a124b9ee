class Value {
 public:
  /// Made of nothing.
  Value() = default;
  Value(const Value&) = delete;
  explicit Value(int number);
  virtual ~Value();

  operator bool() const;
  operator const char*() const { return text; }
  explicit operator std::vector<int>() && { return {}; }
  Value& operator[](int i) { return items[i]; }
  Value operator()(int a) const { return *this; }
  friend bool operator<(const Value& a, const Value& b) { return true; }
  friend void swap(Value& a, Value& b);

  /// The size.
  virtual int size() const = 0;
  int size(int base) const;
  template <typename T> T as() const;
  int (*hook)(int);
  static constexpr int kMax = 3;
  using pointer = Value*;
  typedef int number;

  enum class Kind : char { A, B };
  struct Nested {
    Nested() : a(1) {}
    int a;
  };
  std::function<int()> call = [] { return 1; };

 private:
  struct Impl;
};

Value::Value(int number) {}

Value::Nested* Value::find(int i) const { return nullptr; }

template <>
struct hash<Value> {
  size_t operator()(const Value& v) const { return 1; }
};

template <class T>
concept Sized = requires(T t) { t.size(); };

template <class T>
using Map = std::map<std::string, T>;

namespace a::b {
auto twice = [](int x) { return 2 * x; };
int other(int);

void local() {
  int value(3);
  struct Guard {
    ~Guard() { close(); }
  } guard;
  auto inner = [&](int y) {
    return y;
  };
}
}

auto lib::Reader::read() -> int { return 1; }
