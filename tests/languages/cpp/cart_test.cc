TEST(CartTest, AddsItem) {
  Cart c;
  c.add(1);
}

// Removes it.
TEST_F(CartTest, Removes) {
  cart.remove(1);
}

TYPED_TEST_SUITE(CartTest, Types);

BOOST_AUTO_TEST_CASE(totals) {
  BOOST_TEST(total() == 1);
}

BOOST_FIXTURE_TEST_CASE(clears, CartFixture) {
  clear();
}

TEST_CASE("cart sums", "[cart]") {
  SECTION("of none") {
    REQUIRE(sum() == 0);
  }
  SECTION("of one")
  {
    REQUIRE(sum() == 1);
  }
}

TEST_CASE("slow" * doctest::skip()) {
  CHECK_THROWS_AS(run(), std::exception&);
}

TEST_CASE_METHOD(CartFixture, "ships") {
  ship();
}

MATCHER(IsEven, "is even") { return arg % 2 == 0; }

static void BM_Cart(benchmark::State& state) {
}
BENCHMARK(BM_Cart);
