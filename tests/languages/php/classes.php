<?php
declare(strict_types=1);

namespace App\Models;

#[Entity]
abstract class Model
{
    use Notifiable, Speaks { hi as protected; }

    const A = 1;

    public string $full {
        get => $this->first . $this->last;
        set (string $value) { $this->first = $value; }
    }

    /** The key. */
    abstract protected function key(): string;

    public function __construct(private string $first) {}

    #[Pure]
    public static function &make(): static
    {
        return new static('x');
    }

    /**
     * Saves it.
     */
    #[
        Retry(3),
    ]
    final public function save(): void
    {
        $this->app->singleton('x', function ($app) { return 1; });
    }
}

enum Suit: string implements HasLabel
{
    case Hearts = 'h';

    public function label(): string
    {
        return ucfirst($this->name);
    }

    public static function first(): self { return self::Hearts; }
}

final readonly class Money {}

$logger = new class extends Logger {
    public function log(string $text): void {}
};

function outer()
{
    function inner() {}

    return new class {
        public function run() {}
    };
}

return new class extends Migration {
    public function up(): void {}
};
