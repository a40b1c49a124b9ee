import { x } from './x';

/** A shape. */
export interface Shape {
  area(): number;
}

export type Id = string | number;

enum Color { Red }

namespace Geo.Flat {
  /** Area. */
  export function area(a: number): number {
    return a;
  }
}

@Component({ a: 1 })
export abstract class Circle<T> implements Shape {
  constructor(private r: number) {}

  abstract name(): string;

  /** The area. */
  @Log()
  area(): number {
    return this.r;
  }

  private grow = (by: number): void => {
    this.r += by;
  };
}

export default function () {
  return 1;
}
