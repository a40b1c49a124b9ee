<?php
namespace App\Models;

use Foo;

/**
 * A user.
 */
#[Entity]
final class User extends Model
{
    private $name;

    // Gets the name.
    public function name(): string
    {
        return $this->name;
    }

    abstract function x();
}

interface HasName {
    public function name();
}

trait Speaks {
    # Says hi.
    function hi() { return 'hi'; }
}

if (!function_exists('helper')) {
    /** Helps. */
    function helper() {
        return 1;
    }
}
