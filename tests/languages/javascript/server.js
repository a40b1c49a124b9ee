const app = express();

// Lists orders.
router.get('/orders', authenticate, async (req, res) => {
  const rows = await list().then(function (found) {
    return found.filter((row) => row.open);
  });
  events.on('closed', () => rows.pop());
  $.ajax({ success: function () {}, error() {} });
  const view = { title() {}, count: () => rows.length };
  res.json(view);
  return { close() {}, open: function () {} };
});

router.post(`/orders/${version}`, wrap(async (req, res) => {
  res.json({});
}));

app.use((req, res, next) => {
  next();
});
app.use('/static', function (req, res) {
  res.end();
});
app.listen(3000);

items.forEach(function (item) {
  item.load();
});
promise.then(() => 1, (error) => 2);

process.on('exit', () => {
  app.close();
});

angular
  .module('shop')
  .controller('CartController', function ($scope) {
    $scope.total = function () {
      return 1;
    };
  })
  .service('Rates', function () {
    this.get = () => 1;
  });

gulp.task('build', gulp.series('clean', function compile() {}));

defineGetter(req, 'secure', function secure() {
  return this.protocol === 'https';
});

/**
 * The protocol.
 */
Object.defineProperty(Request.prototype, 'protocol', {
  get() {
    return 'https';
  },
});

exports.load = cached(async (id) => {
  return find(id);
});

define('cart', ['./rates'], function (rates) {
  function total() {
    return rates.get();
  }
  return { total: total };
});
