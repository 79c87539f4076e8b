import type { Plan } from "@tributary/proto/wire/plan.js";
import type { Models } from "./models.js";

/**
 * The files that devices fetch for a plan: its base, and the compute package that it names. A package
 * is cached as models are, in the same bytes, under its digest: fetched from upstream once for the
 * site, kept while a round needs it, and evicted when it was unused longest. Nothing of it runs here.
 */
export function holdFiles(models: Pick<Models, "pin" | "want">, plan: Plan): void {
  for (const manifest of filesOf(plan)) {
    models.pin(manifest.digest);
    // What is wanted last is fetched first: a device asks for the package, then for the base.
    models.want(manifest);
  }
}

/** Undoes `holdFiles`. */
export function releaseFiles(models: Pick<Models, "unpin">, plan: Plan): void {
  for (const { digest } of filesOf(plan)) models.unpin(digest);
}

function filesOf({ base, package: code }: Plan) {
  return code === undefined ? [base] : [base, code.manifest];
}
