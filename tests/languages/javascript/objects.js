/** A component. */
export default {
  name: 'CartView',
  props: { id: Number },
  data() {
    return { open: false, sort(rows) { return rows; } };
  },
  computed: {
    total: {
      get() {
        return 1;
      },
      set(value) {
        this.sum = value;
      },
    },
  },
  methods: {
    // Saves.
    save() {
      this.$emit('saved', () => 1);
    },
    load: async function () {},
    'reload-all': () => {},
    [ADD](state) {},
    throttled: throttle(() => {}, 100),
  },
};

const api = {
  retries: 3,
  get(path) {
    return fetch(path);
  },
  orders: {
    list: () => api.get('/orders'),
  },
};

const plain = { a: 1, b: [1, 2] };

Api.handlers = {
  done: function () {},
};

Cart.prototype = {
  add: function (item) {},
  *each() {},
};

Object.assign(Cart.prototype, {
  remove(item) {},
});

const counter = (function () {
  let value = 0;
  function increment() {
    value += 1;
  }
  return { increment: increment, reset: function () {} };
})();

export const useCart = defineStore('cart', {
  state: () => ({ items: [] }),
  actions: {
    async add(item) {},
  },
});

customElements.define('cart-view', class extends HTMLElement {
  connectedCallback() {}
});

Vue.component('cart-row', {
  methods: { open() {} },
});

export class Money {
  static #rates = new Map();
  static {
    Money.#rates.set('EUR', 1);
  }

  handlers = { click: () => 1 };
  onInput = debounce((event) => event.value, 10);

  /** The amount. */
  get amount() {
    return 1;
  }
  set amount(value) {}

  #round() {}
  static async *all() {}
  [Symbol.iterator]() {}
  'is zero'() {}
}

module.exports = function createCart() {
  return function add(item) {};
};

(function (root, factory) {
  if (typeof define === 'function') define(['rates'], factory);
  else root.Cart = factory(root.Rates);
})(this, function (rates) {
  function convert() {}
  return { convert: convert, rate: () => rates };
});

export const box = create({
  id: read(() => id),
  open: read(
    () => open,
    (value) => {
      open = value;
    },
  ),
});

const legacy = function () {
  function start() {}
  return { start: start };
}();

module.exports = class Rates extends Map {
  latest() {}
};

function mixin(Base) {
  return class Mixed extends Base {};
}

export const config = {
  plugins: [function sitemap() {}],
};
