'use strict';

(function (root) {
  /** Doubles. */
  function twice(x) {
    return 2 * x;
  }

  const half = async (x) => {
    return x / 2;
  };

  exports.third = function (x) {
    return x / 3;
  };

  Cart.prototype.add = function (x) {
    this.items.push(x);
  };
})(this);

// A base.
export class Base extends Object {
  rate = 1;

  // Runs.
  static run() {
    return 1;
  }

  onClick = () => {
    this.run();
  };
}

module.exports = {
  name: 'api',
  get: function () {
    return 1;
  },
  put() {
    return 2;
  },
};

function* ids() {
  yield 1;
}
