/** How much of what was sent on a stream its reader has not taken. */
export type Credit = {
  sent(): void;
  taken(): void;
  /** The stream is over: nothing is waited for any more. */
  over(): void;
  /** Resolves when less than `most` is owed. */
  room(): Promise<void>;
};

export function createCredit(most: number): Credit {
  let owed = 0;
  let go: (() => void) | undefined;
  const wake = () => {
    go?.();
    go = undefined;
  };
  return {
    sent() {
      owed++;
    },
    taken() {
      owed--;
      wake();
    },
    over() {
      owed = Number.NEGATIVE_INFINITY;
      wake();
    },
    async room() {
      while (owed >= most)
        await new Promise<void>((resolve) => {
          go = resolve;
        });
    },
  };
}
