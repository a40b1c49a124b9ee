/** Parses text. */
export function parse(text: string): Tree;
/** Parses lines. */
export function parse(lines: string[]): Tree;
export function parse(source: unknown): Tree {
  return build(source);
}

declare function declared(x: number): string;

export interface Shape<T> extends Base {
  readonly id: string;
  /** The area. */
  area(): number;
  area(scale: number): number;
  get name(): string;
  onClick: (event: Event) => void;
  [key: string]: unknown;
}

export abstract class Store<T> implements Shape<T> {
  constructor(private readonly items: T[]);
  constructor(items: any) {
    this.items = items;
  }

  get(id: string): T;
  get(id: number): T;
  @Log()
  get(id: unknown) {
    return this.items[0] as T;
  }

  /** Runs. */
  abstract run(): void;
  protected abstract stop?(x: number): void;

  @Input() set value(v: string) {}
  private handle = useCallback((event: Event) => {});
  load = async <U,>(x: U): Promise<U> => x;
}

declare module 'vue/types' {
  interface Vue {
    $cart: Cart;
  }
  function mount(): void;
}

declare global {
  interface Window {
    cart: Cart;
  }
}

namespace Geo {
  export const scale = (x: number) => x * 2;
}

export const listen = (async () => {}) as Listener;
export const api = {
  get() {},
  list: () => [],
} satisfies Api;

const enum Level {
  Low,
}

export type Handler = (event: Event) => void;

export const appRouter = router({
  list: procedure.query(async () => {
    return [];
  }),
  add: procedure.input(schema).mutation(function ({ input }) {}),
});

@Component({
  selector: 'cart-view',
})
export class CartView {
  @Output() changed = new EventEmitter<string>();

  ngOnInit(): void {}
}

export default defineComponent({
  name: 'CartRow',
  props: { id: String },
  setup(props) {
    const open = () => {};
    return { open };
  },
});

export type * from './types';

vi.mock('./http', async (importOriginal) => {
  const actual = await importOriginal<typeof import('./http')>();
  return { ...actual, post: () => 1 };
});
