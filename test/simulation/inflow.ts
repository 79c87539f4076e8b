/** What arrives on a stream, for one reader. */
export type Inflow<T> = AsyncIterable<T> & {
  push(item: T): void;
  end(): void;
  /** The reader gets what arrived before, then the error. */
  fail(error: Error): void;
};

export function createInflow<T>(): Inflow<T> {
  const items: T[] = [];
  let over: { readonly error?: Error } | undefined;
  let wake: (() => void) | undefined;
  const rouse = () => {
    wake?.();
    wake = undefined;
  };
  return {
    push(item) {
      if (over !== undefined) return;
      items.push(item);
      rouse();
    },
    end() {
      over ??= {};
      rouse();
    },
    fail(error) {
      over ??= { error };
      rouse();
    },
    async *[Symbol.asyncIterator]() {
      for (;;) {
        while (items.length > 0) yield items.shift() as T;
        if (over?.error !== undefined) throw over.error;
        if (over !== undefined) return;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}
