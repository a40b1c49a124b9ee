<?php

uses(TestCase::class)->beforeEach(function () {
    $this->cart = new Cart();
})->in('Feature');

it('adds', function (int $price) {
    expect($this->cart->add($price))->toBe(1);
})->with([1, 2]);

test('is empty', fn () => expect(1)->toBe(1));

describe('prices', function () {
    afterEach(function () {});

    it('rounds', function () {});
});
