import { Cart } from './cart';

describe('cart', () => {
  let cart;

  beforeEach(async () => {
    cart = new Cart();
  });

  // An item.
  it('adds', () => {
    const price = () => 1;
    cart.on('change', () => {});
    expect(cart.add(price())).toBe(1);
  });

  it.only('removes', function () {
    cart.remove(1);
  });

  test.each([[1, 2]])('costs %i', (a, b) => {
    expect(a).toBeLessThan(b);
  });

  describe.skip('when empty', () => {
    it('is free', () => {});
  });
});

test.describe('in the browser', () => {
  test('opens', async ({ page }) => {
    await page.goto('/');
  });
});

QUnit.module('totals', function (hooks) {
  hooks.before(function () {});

  QUnit.test('of nothing', function (assert) {
    assert.equal(0, 0);
  });
});

function shouldBehaveLikeCart(make) {
  describe(`${make.name} of items`, () => {
    beforeEach(() => make());

    it('has a total', async () => {
      await make().load('x', (item) => item.price);
    });
  });
}

test('subtests', async (t) => {
  await t.test('of a test', () => {});
  /x/.test('no', 1);
});
