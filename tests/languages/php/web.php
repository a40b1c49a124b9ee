<?php

use Illuminate\Support\Facades\Route;

Route::get('/x', function () {
    return view('x');
});
$total = function ($a) {
    return $a;
};

Route::middleware('auth')->prefix('admin')->group(function () {
    // Lists orders.
    Route::post('/orders', fn (Request $request) => $request->all())->name('orders');
    Route::get('/home', [HomeController::class, 'show']);
});

$app->get('/rates', function ($request, $response) {
    $rates = array_map(fn ($rate) => $rate * 2, load());
    $rates->each(function ($rate) { print($rate); });
    $round = function ($rate) { return round($rate); };
    $this->bind('rates', function () { return 1; });
})->setName('rates');

$double = fn (int $x) => $x * 2;
$this->half = static function ($x) { return $x / 2; };
$container['db'] = function ($c) { return new Db($c); };
preg_replace_callback('/x/', function ($match) { return 'y'; }, $text);
$sorted = usort($rows, function ($a, $b) { return 0; });
add_action('init', function () {});

/** Makes the table. */
return [
    'up' => function () { return 1; },
    'casts' => ['price' => fn () => 1],
];
