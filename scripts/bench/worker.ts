/**
 * Answers the commands of the process that forked this one, in order; an exception becomes the
 * reply `{ error }`. Ends when its parent is gone: nothing may run on after a bench that was killed.
 */
export function answerCommands<C>(answer: (command: C) => Promise<object>): void {
  let last: Promise<unknown> = Promise.resolve();
  process.on("message", (command) => {
    last = last
      .then(() => answer(command as C))
      .then(
        (reply) => process.send?.(reply),
        (error: Error) => process.send?.({ error: error.stack ?? error.message }),
      );
  });
  process.on("disconnect", () => {
    throw new Error("the bench is gone");
  });
}
