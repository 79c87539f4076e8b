const prefix = "evaluation.";

type Metrics = Readonly<Record<string, number>>;

/** A model's metrics of its training, or of its evaluation; the cloud keeps both in one map. */
export function partOf(all: Metrics, part: "training" | "evaluation"): Metrics {
  const entries = Object.entries(all).flatMap(([name, value]) => {
    const ofEvaluation = name.startsWith(prefix);
    if (ofEvaluation !== (part === "evaluation")) return [];
    return [[ofEvaluation ? name.slice(prefix.length) : name, value] as const];
  });
  return Object.fromEntries(entries);
}
