import { until } from "./until.js";

/** What a tier reported, and a way to wait for more of it. */
export type EventLog<E extends { readonly name: string }> = {
  readonly events: readonly E[];
  add(event: E): void;
  /** Resolves with the first event of a name, past or to come, that has these fields. */
  event<N extends E["name"]>(
    name: N,
    fields?: Readonly<Record<string, unknown>>,
  ): Promise<Extract<E, { name: N }>>;
  count(name: E["name"], fields?: Readonly<Record<string, unknown>>): number;
};

export function createEventLog<E extends { readonly name: string }>(who: string): EventLog<E> {
  const events: E[] = [];
  const matches = (event: E, name: string, fields: Readonly<Record<string, unknown>>) => {
    const shown = new Map<string, unknown>(Object.entries(event));
    return (
      event.name === name &&
      Object.entries(fields).every(([field, value]) => shown.get(field) === value)
    );
  };
  return {
    events,
    add: (event) => void events.push(event),
    async event<N extends E["name"]>(name: N, fields: Readonly<Record<string, unknown>> = {}) {
      const what = `${who}: ${name} ${JSON.stringify(fields)}`;
      await until(what, () => events.some((event) => matches(event, name, fields)));
      return events.find((event) => matches(event, name, fields)) as Extract<E, { name: N }>;
    },
    count: (name, fields = {}) => events.filter((event) => matches(event, name, fields)).length,
  };
}
