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
