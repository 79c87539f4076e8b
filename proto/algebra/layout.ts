/** One named tensor; its values lie in row-major order. A shape of [] is one scalar. */
export type TensorSpec = { readonly name: string; readonly shape: readonly number[] };

/** The tensors of a model, in the order in which the flat parameter vector holds them. */
export type Layout = readonly TensorSpec[];

export function tensorLength(spec: TensorSpec): number {
  return spec.shape.reduce((product, dimension) => product * dimension, 1);
}

/** Length of the flat parameter vector. */
export function parameterCount(layout: Layout): number {
  return layout.reduce((sum, spec) => sum + tensorLength(spec), 0);
}

export function sameLayout(a: Layout, b: Layout): boolean {
  if (a === b) return true;
  return (
    a.length === b.length &&
    a.every((spec, t) => {
      const other = b[t] as TensorSpec;
      return (
        spec.name === other.name &&
        spec.shape.length === other.shape.length &&
        spec.shape.every((dimension, i) => dimension === other.shape[i])
      );
    })
  );
}
